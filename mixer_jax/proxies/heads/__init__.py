"""Heads, which turn embeddings and labels into a loss and new proxies."""

from mixer_jax.proxies.heads.factory import HEADS, make_head

__all__ = ["HEADS", "make_head"]
