"""Configs that can be named without a path, and what they share."""
