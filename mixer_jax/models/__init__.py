"""Batches in, embeddings out: encoders, concept memory, fusion, towers."""
