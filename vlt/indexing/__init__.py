"""Videos embedded window by window, kept in an index, and found again."""
