"""Heads: from embeddings and labels to a loss and updated proxies."""

from mixer_jax.proxies.heads.factory import HEADS, make_head

__all__ = ["HEADS", "make_head"]
