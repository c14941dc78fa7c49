"""Exclusive use of a folder: a second run is rejected."""
