"""Input pipeline from rows of a sample table to batches of arrays."""
