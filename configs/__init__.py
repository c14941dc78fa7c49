"""Configs that can be named without a path, and their shared settings."""
