"""Describes indexes, and deletes listed items."""

import os
from collections.abc import Sequence

from mixer_jax.runtime.errors import UserError
from mixer_jax.service import opening
from mixer_jax.service.stores.local import LocalStore

_IDS = 4096  # items deleted per transaction


def delete(
    folder: str | os.PathLike,
    ids: Sequence[str] = (),
    file: str | os.PathLike | None = None,
) -> tuple[int, int]:
    """Deletes items from an index.

    Args:
      folder: the index.
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
    with LocalStore.open(folder) as store:
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


def describe(folder: str | os.PathLike) -> list[str]:
    """Returns lines about an index: its size, model, storage and fields."""
    with LocalStore.open(folder) as store:
        loss, where = store.loss, store.path.parent
        used = sum(p.stat().st_size for p in where.glob(f"{store.path.name}*"))
        kinds = [f"{name}:{kind}" for name, kind in store.fields.items()]
        copies = f"{store.thumbnails} pixels" if store.thumbnails else "none"
        found = store.properties
        rows = {
            "items": f"{store.count():,}",
            "vectors": f"{store.count_vectors():,} with {store.dim} elements",
            "stored as": f"{store.storage}, cosines off by at most "
            f"{loss.worst:.2g} ({loss.mean:.2g} on average)",
            "model": " or ".join(found.get("model", [])) or "unknown",
            "step": str(found.get("step", "unknown")),
            "fingerprint": store.fingerprint or "unknown",
            "calibration": str(store.calibration or "none"),
            "pictures": str(opening.find_images(store) or "none"),
            "thumbnails": copies,
            "fields": ",".join(kinds) or "none",
            "size": f"{used / 1e6:,.1f} MB in {store.path.name}",
        }
    return [f"{name + ':':13}{value}" for name, value in rows.items()]
