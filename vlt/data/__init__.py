"""Video files to batches: decode, sample, transform, tokenize, and the pipeline over them."""
