"""Sample table in, batches out."""
