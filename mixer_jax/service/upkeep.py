"""Describes indexes, and deletes listed items."""

import os
from collections.abc import Sequence

from mixer_jax.retrieval import places
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import counted
from mixer_jax.service import opening
from mixer_jax.service.stores import place
from mixer_jax.service.stores.interface import Store

# `roll_back` has no option for another workdir.
_PUT_BACK = "Put it back there to return to this generation"
_IDS = 4096  # items deleted per transaction


def delete(
    index: str | os.PathLike,
    ids: Sequence[str] = (),
    file: str | os.PathLike | None = None,
) -> tuple[int, int]:
    """Deletes items from an index.

    Args:
      index: the index's folder or address.
      ids: the IDs of items.
      file: a text file of more IDs, one per line.

    Returns:
      The number of deleted items, and the number of IDs without an item.

    Raises:
      UserError: if there is no index, the file cannot be read, or no ID is
        given.
    """
    wanted = list(dict.fromkeys([*ids, *_read(file)]))
    if not wanted:
        raise UserError(
            "There is nothing to delete; name items with --id=ID, or a file of "
            "IDs, one per line, with --ids=FILE."
        )
    with place.find(index).open() as store:
        parts = range(0, len(wanted), _IDS)
        count = sum(store.delete(wanted[i : i + _IDS]) for i in parts)
    return count, len(wanted) - count


def _read(file: str | os.PathLike | None) -> list[str]:
    if file is None:
        return []
    try:
        with open(file, encoding="utf-8") as lines:
            return [line for line in lines.read().splitlines() if line]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"The file of IDs {os.fspath(file)} cannot be read: {reason}."
        ) from error


def roll_back(index: str | os.PathLike) -> str:
    """Returns an index to its last kept generation, with its model.

    A running service switches to both within seconds.

    Args:
      index: the index's folder or address.

    Returns:
      A message that names the generation and its model.

    Raises:
      UserError: if there is no index or no kept generation, its model is
        missing, or another process is building the index.
    """
    where = place.find(index)
    where.open().close()  # raises if there is no index
    with where.held():
        for generation in where.earlier()[:1]:
            with where.open(generation=generation) as store:
                if store.fingerprint:
                    opening.find_model(store, _PUT_BACK)
        generation = where.roll_back()
    with where.open() as store:
        items = counted(store.count(), "item")
        return (
            f"The index {where.name} has returned to {generation}, with "
            f"{items} and the model {_model(store)}"
        )


def describe(index: str | os.PathLike) -> list[str]:
    """Returns lines about an index: its size, model, storage and fields."""
    where = place.find(index)
    with where.open() as store:
        kinds = [f"{name}:{kind}" for name, kind in store.fields.items()]
        copies = f"{store.thumbnails} pixels" if store.thumbnails else "none"
        rows = {
            "items": f"{store.count():,}",
            "vectors": f"{store.count_vectors():,} with {store.dim} elements",
            "model": _model(store),
            "step": _step(store.properties.get("step")),
            "fingerprint": store.fingerprint or "unknown",
            "calibration": str(store.calibration or "none"),
            "pictures": str(opening.find_images(store) or "none"),
            "thumbnails": copies,
            "fields": ",".join(kinds) or "none",
            "earlier": ", ".join(where.earlier()) or "none",
        } | store.facts()
    return [f"{name + ':':13}{value}" for name, value in rows.items()]


def _model(store: Store) -> str:
    """Returns where the model of an index is, without downloading it."""
    names = store.properties.get("model", [])
    if not names:
        return "unknown"
    if names[0].startswith("hub://"):
        return names[0]
    try:
        return str(opening.find_model(store))
    except UserError:
        found = places.load(names, store.folder)
        return f"missing from {' and '.join(map(str, found))}"


def _step(step: int | None) -> str:
    if step is None:
        return "unknown"
    return f"{step:,}" if step else "none (published weights)"
