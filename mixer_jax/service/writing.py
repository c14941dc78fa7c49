"""Writes rows of a source to a store; embeds those that have changed."""

import os
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd

from mixer_jax.data.images.faults import UnreadableImageError
from mixer_jax.data.tables import table
from mixer_jax.retrieval.sharded import embedder, layout
from mixer_jax.runtime import threads as threads_lib
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import quoted
from mixer_jax.service import entries
from mixer_jax.service.sources import ITEM, Chunk, Source
from mixer_jax.service.stores import encoding, fields
from mixer_jax.service.stores.interface import Item, Vector
from mixer_jax.service.stores.local import LocalStore
from mixer_jax.training.checkpoint.checkpoints import Trained


class Written(NamedTuple):
    """The number of vectors written, and the rows left out."""

    count: int
    skipped: list[layout.Skipped]


class _Rows(NamedTuple):
    """Columns of a chunk, all of length n.

    Attributes:
      frame: the rows.
      contents: the contents of the vectors.
      embeddings: f32 `[n, D]`; undefined where `is_new` is not set.
      is_new: bool `[n]`, whether the store lacks the vector.
      is_kept: bool `[n]`; False for rows left out.
    """

    frame: pd.DataFrame
    contents: list[bytes]
    embeddings: np.ndarray
    is_new: np.ndarray
    is_kept: np.ndarray


def common_root(source: Source) -> str | None:
    """Returns a folder that holds all images of a source; None for none."""
    if source.frame is None:
        return str(source.folder) if source.path.is_file() else None
    folder = os.path.abspath(source.folder)
    images = source.frame["image"]
    absolute = images[images.str.startswith("/")]
    return os.path.commonpath([folder, *map(os.path.dirname, absolute)])


class Writer:
    """Writes the rows of one source to one store."""

    def __init__(
        self,
        store: LocalStore,
        source: Source,
        trained: Trained | None,
        *,
        root: str | os.PathLike | None,
        batch_size: int,
    ):
        """Places the model on the devices.

        Args:
          store: the store.
          source: the source of the rows.
          trained: the model; None if the source has embeddings.
          root: the folder that stored image names are relative to.
          batch_size: the number of documents embedded at once.
        """
        self._store, self._source = store, source
        self._folder = os.path.abspath(source.folder)
        self._root = None if root is None else os.path.abspath(root)
        self._embed = None
        if trained is not None and not source.embeddings:
            rows = -(-batch_size // jax.local_device_count())
            self._embed = embedder.Embedder(
                trained, pathlib.Path(self._folder), rows
            )

    def write(self, chunk: Chunk) -> Written:
        """Writes the rows of a chunk, in one transaction."""
        frame = chunk.frame
        digests = embedder.digests(frame, pathlib.Path(self._folder))
        contents = self._contents(chunk, digests)
        known = self._store.contents(list(frame[ITEM].unique()))
        pairs = zip(frame[ITEM], contents, strict=True)
        is_new = np.array([c not in known.get(i, ()) for i, c in pairs], bool)
        is_kept, skipped = np.ones(len(frame), bool), []
        embeddings = chunk.embeddings
        if self._embed is not None:
            # Report unreadable images even if they have stored embeddings.
            is_new |= (frame["image"] != "").to_numpy() & ~digests.any(axis=1)
            embeddings, skipped, places = self._compute(frame, is_new)
            is_kept[places] = False
        rows = _Rows(frame, contents, embeddings, is_new & is_kept, is_kept)
        self._store.upsert(list(self._items(rows)))
        return Written(int(rows.is_new.sum()), skipped)

    def _contents(self, chunk: Chunk, digests: np.ndarray) -> list[bytes]:
        contents = [
            entries.content_of(digest.tobytes() if digest.any() else b"", text)
            for digest, text in zip(digests, chunk.frame["text"], strict=True)
        ]
        # A row may consist of its embedding alone.
        is_computed = self._source.frame is not None and self._store.fingerprint
        if chunk.embeddings is None or is_computed:
            return contents
        return [
            encoding.content(content, row.tobytes())
            for content, row in zip(contents, chunk.embeddings, strict=True)
        ]

    def _compute(
        self, frame: pd.DataFrame, is_new: np.ndarray
    ) -> tuple[np.ndarray, list[layout.Skipped], np.ndarray]:
        """Returns new rows' embeddings, skipped rows and their positions."""
        embeddings = np.zeros((len(frame), self._store.dim), np.float32)
        if not is_new.any():
            return embeddings, [], np.zeros(0, int)
        made = self._embed(frame[is_new], table.DOCUMENT, lambda count: None)
        where = np.flatnonzero(is_new)
        embeddings[where] = made.embeddings
        places = where[made.places]
        kept = np.setdiff1d(where, places)
        if not np.isfinite(embeddings[kept]).all():
            raise UserError(
                "The model produces embeddings that are not finite; train it "
                "again with a smaller learning rate."
            )
        return embeddings, list(made.skipped), places

    def _items(self, rows: _Rows) -> Iterator[Item]:
        """Yields the items of the rows to keep."""
        copies = self._thumbnails(rows)
        by_item: dict[str, list[int]] = {}
        for row in np.flatnonzero(rows.is_kept).tolist():
            by_item.setdefault(rows.frame[ITEM].iat[row], []).append(row)
        columns = rows.frame.to_dict("list")
        for item, places in by_item.items():
            vectors = tuple(
                Vector(
                    rows.contents[row],
                    rows.embeddings[row] if rows.is_new[row] else None,
                    self._name(columns["image"][row]),
                    copies.get(row, b""),
                )
                for row in places
            )
            texts = [columns["text"][row] for row in places]
            first = places[0]
            yield Item(
                item,
                vectors,
                next(filter(None, texts), ""),
                columns["group"][first],
                columns["category_id"][first],
                self._fields(columns, first),
            )

    def _fields(self, columns: dict[str, list], row: int) -> dict:
        found = {
            name: fields.read(columns[name][row], name, kind, "")
            for name, kind in self._source.kinds.items()
        }
        return {name: one for name, one in found.items() if one is not None}

    def _name(self, image: str) -> str:
        """Returns an image's path relative to the index's image folder."""
        if not image or self._root is None:
            return ""
        if self._root == self._folder and not image.startswith("/"):
            return image
        name = os.path.relpath(os.path.join(self._folder, image), self._root)
        if name.partition(os.sep)[0] != os.pardir:
            return name
        if self._store.thumbnails:
            return ""
        raise UserError(
            f"The image {quoted(image)} of {self._source.path} is outside the "
            f"image folder {self._root}; name a folder that holds all images "
            "with --images=FOLDER, or build the index with --thumbnails=256."
        )

    def _thumbnails(self, rows: _Rows) -> dict[int, bytes]:
        """Returns thumbnails of the pictures of new vectors, by row."""
        side = self._store.thumbnails
        has_image = (rows.frame["image"] != "").to_numpy()
        places = np.flatnonzero(rows.is_new & has_image).tolist()
        if not side or not places:
            return {}

        def make(row: int) -> bytes:
            name = os.path.join(self._folder, rows.frame["image"].iat[row])
            try:
                return entries.thumbnail(name, side)
            except UnreadableImageError:  # the embedding was given
                return b""

        with threads_lib.pool() as pool:
            return dict(zip(places, pool.map(make, places), strict=True))
