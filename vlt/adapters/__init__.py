"""Adapters and temporal models, one file a method."""
