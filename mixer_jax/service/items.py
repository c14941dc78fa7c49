"""An open index: writes items, and finds them by picture, text or vector."""

import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mixer_jax.data.images.pictures import Picture
from mixer_jax.data.tables import rules
from mixer_jax.retrieval.calibration import Calibration
from mixer_jax.retrieval.model import Model
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import references
from mixer_jax.runtime.text import quoted
from mixer_jax.service import entries, queries
from mixer_jax.service.stores import interface
from mixer_jax.service.stores.interface import Item

_ITEMS = 1024  # items written per transaction


class Hit(NamedTuple):
    """An item found by a search.

    Attributes:
      id: the item's ID.
      score: the cosine of the query and the item's best vector.
      text: the item's text; "" if it has none.
      group: its group; "" if it has none.
      category: its category ID; "" if it has none.
      fields: its fields by name.
      image: the picture that fits best: its path, or the bytes of its
        thumbnail, or None.
      probability: that the item shows the same thing as the query; None if
        the index has no calibration, or the query has a text.
    """

    id: str
    score: float
    text: str
    group: str
    category: str
    fields: Mapping[str, Any]
    image: pathlib.Path | bytes | None
    probability: float | None = None


class Index:
    """Items to search, and the model that embeds them.

    Instances are thread-safe. Several processes may use the same index: each
    search sees everything that was written before it began.

    Attributes:
      store: the items; see `stores.interface.Store`.
      images: the folder of the pictures; None if there is none.
    """

    def __init__(
        self,
        store: interface.Store,
        model: Model | None,
        images: pathlib.Path | None,
        load: Callable[[], Model],
    ):
        """Stores the parts of an index; see `opening.open_index`.

        Args:
          store: the items.
          model: the model; None to load it when needed.
          images: the folder of the pictures.
          load: loads the model.
        """
        self.store, self.images = store, images
        self._model, self._load = model, load

    @property
    def model(self) -> Model:
        """The model; loaded on first use.

        Raises:
          UserError: if the index has no model, or it cannot be found.
        """
        if self._model is None:
            self._model = self._load()
        return self._model

    def __len__(self) -> int:
        """Returns the number of items."""
        return self.store.count()

    def __enter__(self) -> "Index":
        """Returns self."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the index."""
        self.close()

    def close(self) -> None:
        """Closes the index."""
        self.store.close()

    def flush(self) -> None:
        """Writes the log back to the index's file, so that it can be copied."""
        self.store.flush()

    def upsert(
        self,
        ids: Sequence[str],
        *,
        images: Sequence[Any] | None = None,
        texts: Sequence[str | None] | None = None,
        vectors: Sequence[Any] | None = None,
        fields: Sequence[Mapping[str, Any] | None] | None = None,
        groups: Sequence[str | None] | None = None,
        categories: Sequence[str | None] | None = None,
        batch_size: int = 64,
    ) -> None:
        """Adds items, and replaces those with the same IDs.

        Once this returns, all items are on disk and visible to the next search.
        After an interruption, some of them may be. Items whose pictures and
        text have not changed are not embedded again.

        Args:
          ids: N item IDs.
          images: N pictures, see `Model.embed_queries`; a list of pictures for
            an item with several, None for no picture.
          texts: N texts; None or "" for no text.
          vectors: N embeddings f32 `[D]`, or `[n, D]` for an item with several,
            to use instead of the model's.
          fields: N mappings of declared fields to values. If none are
            declared, the first call declares its own.
          groups: N groups.
          categories: N category IDs.
          batch_size: the number of pictures and texts embedded at once.

        Raises:
          UserError: names the first item that is invalid.
        """
        given = entries.align(
            ids,
            images=images,
            texts=texts,
            vectors=vectors,
            fields=fields,
            groups=groups,
            categories=categories,
        )
        kinds = entries.kinds(given)
        for start in range(0, len(given), _ITEMS):
            part = given[start : start + _ITEMS]
            self.store.upsert(self._embed(part, batch_size), kinds)

    def _embed(
        self, given: Sequence[entries.Entry], batch_size: int
    ) -> list[Item]:
        loader = entries.Loader(self.images, self.store.thumbnails)
        known = self.store.contents([one.id for one in given])
        return entries.make_items(
            [loader.load(one, known.get(one.id, ())) for one in given],
            lambda images, texts: self.model.embed_documents(
                images, texts, batch_size=batch_size
            ),
        )

    def delete(self, ids: Sequence[str]) -> int:
        """Removes items; returns how many existed."""
        return self.store.delete(entries.check_ids(ids))

    def get(self, id: str) -> Item | None:
        """Returns an item with its vectors; None if it does not exist."""
        return self.store.get([id])[0]

    def search(
        self,
        picture: Picture | Sequence[Picture] | None = None,
        *,
        text: str | Sequence[str] | None = None,
        vector: Any = None,
        k: int = 10,
        where: interface.Where | None = None,
        offset: int = 0,
        min_score: float | None = None,
        min_probability: float | None = None,
        group_by: str | None = None,
    ) -> list[Any]:
        """Finds the items nearest to a query, or to each of several.

        A query is a picture, a text, both, or a vector. Lists of them, or an
        array of vectors, are several queries.

        Args:
          picture: a picture, see `Model.embed_queries`, or a list of them.
          text: a text, or a list of them.
          vector: an embedding f32 `[D]`, or several, `[Q, D]`.
          k: the maximum number of items per query.
          where: conditions on fields, all of which must hold: a value, a list
            of values, or a range, {"min": 1, "max": 5}.
          offset: the number of nearest items to leave out, for further pages.
          min_score: the minimum cosine.
          min_probability: the minimum probability that an item shows the same
            thing; for pictures and vectors, if the index has a calibration.
          group_by: a field; only the nearest item of each value is returned.

        Returns:
          Hits, nearest first; for several queries, a list of hits for each.

        Raises:
          UserError: if the query or a condition is invalid.
        """
        _check_count("k", k, 1)
        _check_count("offset", offset, 0)
        embeddings, is_one = queries.embed(
            lambda: self.model, picture, text, vector
        )
        found = self.find(
            embeddings,
            int(k),
            where=where,
            offset=int(offset),
            min_score=min_score,
            group_by=group_by,
            min_probability=min_probability,
            is_calibrated=text is None,
        )
        shown = [[self._show(hit) for hit in one] for one in found]
        return shown[0] if is_one else shown

    def find(
        self,
        embeddings: np.ndarray,
        k: int,
        *,
        min_probability: float | None = None,
        is_calibrated: bool = True,
        **options: Any,
    ) -> list[list[interface.Hit]]:
        """Like `Store.search`, but the hits have probabilities.

        Args:
          embeddings: f32 `[Q, D]`.
          k: the maximum number of items per query.
          min_probability: see `search`.
          is_calibrated: whether the queries are like those of the calibration,
            which are pictures without texts.
          **options: see `Store.search`.

        Raises:
          UserError: see `search`.
        """
        known = self.store.calibration if is_calibrated else None
        if min_probability is not None:
            _check_probability(min_probability, is_calibrated, known)
        found = self.store.search(embeddings, k=k, **options)
        if known is None:
            return found
        nearer = options.get("offset", 0)
        chances = [
            known.rate([h.score for h in hits], nearer) for hits in found
        ]
        return [
            _rated(*pair, min_probability or 0.0)
            for pair in zip(found, chances, strict=True)
        ]

    def _show(self, hit: interface.Hit) -> Hit:
        named = hit.text, hit.group, hit.category, hit.fields
        shown = self.picture(hit.id, hit.number), hit.probability
        return Hit(hit.id, hit.score, *named, *shown)

    def picture(self, id: str, number: int) -> pathlib.Path | bytes | None:
        """Returns a picture: its path, or the bytes of its thumbnail.

        Args:
          id: the ID of an item.
          number: the number of one of its vectors; see `interface.Hit`.

        Returns:
          None if there is no such vector, or it has no picture.
        """
        found = self.store.picture(id, number) if number >= 0 else None
        if found is None:
            return None
        return self.find_picture(found.image, found.thumbnail)

    def find_picture(
        self, image: str, thumbnail: bytes
    ) -> pathlib.Path | bytes | None:
        """Returns the picture of a vector, as `picture` does.

        Args:
          image: its path relative to `images`; "" for none.
          thumbnail: its small copy; b"" for none.
        """
        path = self.path_of(image)
        if path is not None and os.path.isfile(references.file_of(path)):
            return path
        return thumbnail or path

    def path_of(self, name: str) -> pathlib.Path | None:
        """Returns the path of a picture; None if it is not in `images`."""
        # An index from another source may name any file.
        if self.images is None or not name or re.search(rules.OUTSIDE, name):
            return None
        return self.images / name


def _rated(
    hits: Sequence[interface.Hit], chances: np.ndarray, threshold: float
) -> list[interface.Hit]:
    """Returns the hits with their probabilities, if these are high enough."""
    return [
        hit._replace(probability=chance)
        for hit, chance in zip(hits, chances.tolist(), strict=True)
        if chance >= threshold
    ]


def _check_probability(
    value: Any, is_calibrated: bool, calibration: Calibration | None
) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= 1:
        raise UserError(
            f"min_probability is {quoted(value)}; it must be a number from 0 "
            "to 1."
        )
    if not is_calibrated:
        raise UserError(
            "min_probability is for searches by a picture alone or a vector; "
            "leave it out, or use min_score."
        )
    if calibration is None:
        raise UserError(
            "The index has no calibration, which min_probability needs; make "
            "one with `python -m mixer_jax.index calibrate`, or use min_score."
        )


def _check_count(name: str, value: Any, minimum: int) -> None:
    is_count = isinstance(value, int | np.integer)
    if not is_count or isinstance(value, bool) or value < minimum:
        raise UserError(
            f"{name} is {quoted(value)}; it must be an integer of {minimum} or "
            "more."
        )
