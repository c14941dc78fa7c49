"""Scenes: backgrounds, and pictures composed from cutouts."""
