"""Rows of a sample table in, batches of arrays out."""
