"""Checks the videos of a manifest: `python -m data_pipelines.check`."""
