"""Tensors to leaves and back: by name, in other shapes, and one at a time."""
