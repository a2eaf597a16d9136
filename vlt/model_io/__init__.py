"""Models built from configs, read from folders and written to them."""
