"""Clicks, pictures and texts in, a sparse graph of affinities out."""
