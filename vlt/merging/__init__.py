"""Token merging and pruning schemes, one file each."""
