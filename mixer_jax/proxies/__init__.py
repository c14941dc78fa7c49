"""Embeddings and labels in, loss out: margins, heads, sparse updates."""
