"""Adapters and temporal models, one file per method."""
