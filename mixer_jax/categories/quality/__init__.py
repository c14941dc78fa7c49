"""Measures of found categories, with and without the truth."""
