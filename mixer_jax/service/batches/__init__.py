"""Embeds and searches queries in small batches."""
