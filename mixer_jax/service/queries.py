"""Embeds the queries of a search: pictures, texts, both, or vectors."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mixer_jax.retrieval.model import Model
from mixer_jax.runtime.errors import UserError


def embed(
    model: Callable[[], Model], picture: Any, text: Any, vector: Any
) -> tuple[np.ndarray, bool]:
    """Returns embeddings, f32 `[Q, D]`, and whether a single query was given.

    Args:
      model: returns the model; not called for vectors.
      picture: a picture, a list of them, or None.
      text: a text, a list of them, or None.
      vector: `[D]`, `[Q, D]` or None.

    Raises:
      UserError: if nothing, too much, or lists of different lengths are given.
    """
    if vector is not None:
        if picture is not None or text is not None:
            raise UserError(
                "A query with a vector cannot have a picture or a text."
            )
        rows = np.asarray(vector, np.float32)
        return (rows[None], True) if rows.ndim == 1 else (rows, False)
    if picture is None and text is None:
        raise UserError("A query needs a picture, a text or a vector.")
    pictures, one_picture = _listed(picture)
    texts, one_text = _listed(text)
    if text is None:
        return model().embed_queries(pictures), one_picture
    if picture is not None and one_picture != one_text:
        raise UserError(
            "A query has one picture and several texts, or the reverse; give "
            "one text per picture."
        )
    if model().ignores_text and picture is None:
        raise UserError(
            f"The index cannot be searched by text: {model().ignores_text}."
        )
    given = None if picture is None else pictures
    return model().embed_documents(given, texts), one_text


def _listed(given: Any) -> tuple[list, bool]:
    """Returns a list, and whether a single picture or text was given."""
    is_array = isinstance(given, np.ndarray | jax.Array)
    if isinstance(given, list | tuple) or (is_array and given.ndim == 4):
        return list(given), False
    return [given], True
