"""Embeddings of tables of any size, in folders of Parquet files."""
