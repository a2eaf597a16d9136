"""Published layouts, one file each, and what tells which of them a file has."""
