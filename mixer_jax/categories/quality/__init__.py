"""Metrics of found categories, with and without true categories."""
