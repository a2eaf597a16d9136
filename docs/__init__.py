"""The reference, made from the code: `python -m docs` writes its pages and their site."""
