"""Stores for an index's items: storage on disk, and search."""
