"""Reads and writes checkpoint files, which may come from strangers: nothing in them runs."""
