"""Sparse graphs of affinities from clicks, images and texts."""
