"""Embeds small batches of queries, with programs compiled at startup.

A batch is padded to 1, 2, 4 or 8 rows, or to the number of devices if that is
greater, so no request waits for a compilation.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from mixer_jax.data.images import crops, decoding, faults, squares
from mixer_jax.retrieval.model import Model
from mixer_jax.runtime.errors import UserError

SIZE = 8  # the maximum number of queries per batch
# Formats that browsers show. Some other decoders start external programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF")
_SUPPORTED = "a PNG, JPEG, WebP, GIF, BMP or AVIF file is required"


class Query(NamedTuple):
    """A decoded picture, a text, or both.

    Attributes:
      pixels: uint8 `[S, S, 3]`; None for no picture.
      text: the text; "" for none.
      is_document: whether a picture alone goes through the document tower.
    """

    pixels: np.ndarray | None
    text: str = ""
    is_document: bool = False


class Encoder:
    """Decodes and embeds queries; see `Model` for the two towers.

    Attributes:
      model: the model.
    """

    def __init__(self, model: Model, max_pixels: int):
        """Stores the model; `max_pixels` limits decoded pictures."""
        self.model, self._max_pixels = model, max_pixels

    def compile(self) -> None:
        """Compiles the programs for all batch sizes."""
        blank = squares.blank(self.model.image_size)
        size = 1
        while size <= SIZE:
            for is_document in (False, True):
                self.embed([Query(blank, "", is_document)] * size)
            size *= 2

    def decode(self, content: bytes, box: str = "") -> np.ndarray:
        """Decodes a picture; waits until the memory for it is free.

        Args:
          content: the bytes of an image file.
          box: the part to decode, as in `data.images.crops`; "" for all.

        Returns:
          uint8 `[S, S, 3]`.

        Raises:
          UserError: if the picture is rejected; tells the client why.
        """
        Image.init()
        try:
            return decoding.decode(
                crops.attach(content, box),
                self.model.image_size,
                self._max_pixels,
                option="--max-megapixels",
                formats=[name for name in _FORMATS if name in Image.OPEN],
            )
        except decoding.UnreadableImageError as error:
            raise UserError(_refusal(content, error, box)) from error

    def check(self, has_image: bool, text: str) -> None:
        """Checks that the model can embed a query before anything is decoded.

        Raises:
          UserError: if the query has a text that the model would ignore.
        """
        if text and self.model.ignores_text:
            rest = "send the picture alone" if has_image else "send a picture"
            raise UserError(
                f"The index cannot be searched by text: "
                f"{self.model.ignores_text}; {rest}."
            )

    def embed(self, queries: Sequence[Query]) -> np.ndarray:
        """Embeds at most `SIZE` queries at once.

        Pictures alone go through the query tower, all others through the
        document tower.

        Returns:
          f32 `[N, D]`, unit rows, in the given order.
        """
        result = np.zeros((len(queries), self.model.dim), np.float32)
        which = np.array([bool(q.text) or q.is_document for q in queries])
        for are_documents in (False, True):
            (rows,) = np.nonzero(which == are_documents)
            if len(rows):
                part = [queries[row] for row in rows]
                result[rows] = self._embed(part, are_documents)
        return result

    def _embed(
        self, queries: Sequence[Query], are_documents: bool
    ) -> np.ndarray:
        blank = squares.blank(self.model.image_size)
        has_image = np.array([query.pixels is not None for query in queries])
        pixels = np.stack(
            [blank if one.pixels is None else one.pixels for one in queries]
        )
        texts = [query.text for query in queries] if are_documents else None
        return self.model.embed_pixels(
            pixels, texts, has_image=has_image, batch_size=SIZE
        )


def _refusal(
    content: bytes, error: decoding.UnreadableImageError, box: str
) -> str:
    """Returns a message that tells the client why a picture is rejected."""
    kind = faults.describe(content)
    if error.kind == faults.TOO_LARGE:
        return f"This is {kind}, but {error.reason}."
    if error.kind in (faults.TRUNCATED, faults.CORRUPT):
        return f"This is {kind} that cannot be read: it is {error.kind}."
    if error.kind == faults.NO_AREA:
        if box:
            return f"This is {kind}, but {error.reason}."
        return f"This is {kind} that cannot be read: it has {error.kind}."
    return f"This is {kind}; {_SUPPORTED}."
