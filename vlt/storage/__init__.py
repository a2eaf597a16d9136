"""What is kept on disk: trees of arrays, and files that are written whole or not at all."""
