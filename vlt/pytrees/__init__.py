"""Nested dicts of arrays by the paths of their leaves."""
