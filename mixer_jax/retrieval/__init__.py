"""Embeddings in, ranked answers and their measures out."""
