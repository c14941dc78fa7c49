"""Outputs of frozen model parts, computed once and kept on disk."""
