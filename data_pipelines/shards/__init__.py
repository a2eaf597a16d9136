"""Writes the videos of a manifest into ArrayRecord shards; see data_pipelines/README.md."""
