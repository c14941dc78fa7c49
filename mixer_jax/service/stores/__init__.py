"""Stores of an index's items: what is searched, and how it is kept."""
