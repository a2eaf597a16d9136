"""Texts to ids: files, captions, prompts and tokenizers."""
