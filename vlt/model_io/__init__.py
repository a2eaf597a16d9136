"""Models from configs and folders, and into them."""
