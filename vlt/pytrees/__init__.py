"""Nested dicts: of arrays, by the paths of their leaves, and of plain values, as dataclasses."""
