"""Embeds all items of an index again with another model."""

import os
from collections.abc import Collection, Sequence

from mixer_jax.data.images import decoding
from mixer_jax.data.images.faults import UnreadableImageError
from mixer_jax.retrieval.model import Model, load
from mixer_jax.runtime import progress
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import quoted
from mixer_jax.service import entries, opening
from mixer_jax.service.items import Index
from mixer_jax.service.stores import place
from mixer_jax.service.stores.interface import Item, Store, Vector
from mixer_jax.service.stores.milvus import options

_ITEMS = 1024  # items embedded and written at once
_COPIES = 3  # maximum number of copies before writes are blocked


def rebuild(
    index: str | os.PathLike,
    workdir: str | os.PathLike,
    *,
    images: str | os.PathLike | None = None,
    storage: str | None = None,
    index_kind: str = "",
    consistency: str = "",
    batch_size: int = 256,
    keep: int | None = None,
) -> tuple[int, int]:
    """Embeds all items with another model, into a new generation.

    Meanwhile, the old generation can be searched and written; the new one
    replaces it when it is complete. Repeating an interrupted call resumes it.

    Args:
      index: the index's folder or address.
      workdir: the workdir of the new model, or a bundle.
      images: the folder of the pictures, if moved.
      storage: how embeddings are stored; by default, as before.
      index_kind: the kind of an index in Milvus; by default, as before.
      consistency: the consistency of its searches; by default, as before.
      batch_size: the number of documents embedded at once.
      keep: the maximum number of earlier generations to keep for a roll-back;
        by default, as many as are kept now.

    Returns:
      The number of items, and the number of pictures embedded from their
      thumbnails because their files are missing.

    Raises:
      UserError: if an item cannot be embedded from what the index stores.
    """
    where = place.find(index)
    given = {"index_kind": index_kind, "consistency": consistency}
    with where.held(), where.open() as old:
        if keep is None:
            keep = len(where.earlier())
        opening.require_known(old)
        root = opening.find_images(old, images)
        before = Index(old, None, root, lambda: load(workdir))
        _check(before)
        model = load(workdir)
        properties = opening.describe(
            model.dim,
            model.fingerprint,
            storage=storage or old.storage,
            thumbnails=old.thumbnails,
            kinds=old.fields,
            **{
                name: given[name] or old.properties.get(name, "")
                for name in options.NAMES
            },
        ) | {"source": f"rebuilt from {old.generation}"}
        properties |= opening.trained(model)
        properties |= opening.locate(where.folder, model=workdir, images=root)
        where.check(properties)
        with where.draft(properties) as new:
            work = _Work(before, new, model, batch_size)
            _run(work, old, new, keep)
            return new.count(), work.copies


def _check(index: Index) -> None:
    """Raises a `UserError` if items cannot be embedded again."""
    lost: dict[str, None] = {}  # an ordered set
    for vectors in index.store.without_thumbnail(_ITEMS):
        for one in vectors:
            has_file = index.path_of(one.image) is not None
            if not has_file and not entries.is_text(one.content, one.text):
                lost[one.id] = None
    if lost:
        raise _lost_error(*lost)


def _run(work: "_Work", old: Store, new: Store, keep: int) -> None:
    """Copies all items, and publishes the new store."""
    label = "Embedding items"
    for _ in range(_COPIES):
        before = old.state
        work.copy(label)
        # Copy what other processes have written in the meantime.
        label = "Embedding changed items"
        if old.state == before:
            break
    new.prepare()
    # Writes are blocked from here on, so the rest should be short.
    with old.frozen():
        if old.state != before:
            work.copy(label)
        work.remove_others()
        new.publish(keep)


class _Work:
    """Copies items to a new store, with the embeddings of a new model."""

    def __init__(
        self,
        index: Index,
        new: Store,
        model: Model,
        batch_size: int,
    ):
        self._index, self._old = index, index.store
        self._new, self._model = new, model
        self._batch_size = batch_size
        self.copies = 0

    def copy(self, label: str) -> None:
        """Writes the items whose pictures or texts the new store lacks."""
        with progress.show(label, self._old.count()) as count:
            for items in self._old.iterate(_ITEMS):
                self._new.upsert(self._embed(items))
                count(len(items))

    def remove_others(self) -> None:
        """Removes the items that the old store no longer has."""
        for ids in self._new.ids(_ITEMS):
            known = self._old.existing(ids)
            self._new.delete([id for id in ids if id not in known])

    def _embed(self, items: Sequence[Item]) -> list[Item]:
        known = self._new.contents([item.id for item in items])
        loaded = [self._load(item, known.get(item.id, ())) for item in items]
        return entries.make_items(
            loaded,
            lambda pictures, texts: self._model.embed_documents(
                pictures, texts, batch_size=self._batch_size
            ),
        )

    def _load(self, item: Item, known: Collection[bytes]) -> entries.Loaded:
        is_new = [vector.content not in known for vector in item.vectors]
        pictures = [
            self._picture(item, vector) if new else None
            for vector, new in zip(item.vectors, is_new, strict=True)
        ]
        vectors = [one._replace(embedding=None) for one in item.vectors]
        item = item._replace(vectors=tuple(vectors))
        return entries.Loaded(item, pictures, is_new)

    def _picture(self, item: Item, vector: Vector) -> bytes | None:
        """Returns the bytes of a picture; None if the text was embedded."""
        path = self._index.path_of(vector.image)
        if path is not None:
            try:
                return decoding.read(path)
            except UnreadableImageError as error:
                if not vector.thumbnail:
                    raise UserError(
                        f"Item {quoted(item.id)} cannot be embedded again: "
                        f"{error} Name the folder of the pictures with "
                        "python -m mixer_jax.index rebuild --images=FOLDER."
                    ) from error
        if vector.thumbnail:
            self.copies += 1
            return vector.thumbnail
        if not entries.is_text(vector.content, item.text):
            raise _lost_error(item.id)  # written since `check`
        return None


def _lost_error(first: str, *others: str) -> UserError:
    count = 1 + len(others)
    subject = f"{count:,} items, such as {quoted(first)},"
    if not others:
        subject = f"Item {quoted(first)}"
    return UserError(
        f"{subject} cannot be embedded again: a picture is not stored, and the "
        "embedding is not that of the text alone. Write each item again with "
        "its pictures, or delete it."
    )
