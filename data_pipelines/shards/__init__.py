"""Videos of a manifest into ArrayRecord shards; see data_pipelines/README.md."""
