"""Features of a click log, cached on disk because encoding is slow."""

import functools
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mixer_jax.categories.click_log import ClickLog
from mixer_jax.categories.evidence.graph import Features
from mixer_jax.runtime import (
    arrays,
    command,
    files,
    identity,
    progress,
    results,
    terminal,
)

_PART = 16384  # images or texts per cached part; a part takes 1 to 2 minutes


def encode(
    log: ClickLog,
    path: str | Path,
    encoders: str,
    encode_images: Callable[[Sequence[str]], np.ndarray],
    encode_texts: Callable[[Sequence[str]], np.ndarray],
) -> Features:
    """Encodes a log's images and texts, or reads the cached features.

    Parts are cached as they are encoded, so an interrupted run can be resumed.

    Args:
      log: log whose samples are encoded.
      path: the .npz file that caches the features; a file made from other
        samples or by other encoders is replaced.
      encoders: name of the encoders and their settings.
      encode_images: image paths -> `[N, C]` float.
      encode_texts: texts -> `[N, T]` float.
    """
    path = Path(path)
    images = [*log.queries["image"], *log.items["image"]]
    texts = log.items["text"].tolist()
    parts = path.with_name(f".{path.name}.parts")
    data = _identify([encoders, *texts], images)
    kept = _read(path)
    old = kept.get("notes", identity.read_notes(parts))
    notes = identity.compare_notes(old, data).notes
    key, ids = data.content(notes), _hash_ids(log)
    if kept and str(kept["key"]) == key:
        current = {"notes": notes, "ids": ids}  # Either may have changed.
        if any(not np.array_equal(kept[a], b) for a, b in current.items()):
            _cache(path, **kept | current)
        return _features(kept["image"], kept["text"], len(log.queries))
    begun = parts / key
    for other in parts.glob("*"):
        if other != begun and other.is_dir():
            shutil.rmtree(other)
    files.make_folder(begun)
    identity.write_notes(parts, notes)
    image = _where_known(images, encode_images, begun / "images")
    text = _where_known(texts, encode_texts, begun / "texts")
    made = {"notes": notes, "ids": ids, "image": image, "text": text}
    if _cache(path, key=np.array(key), **made):
        shutil.rmtree(parts)
    return _features(image, text, len(log.queries))


def read(path: str | Path, log: ClickLog) -> Features | None:
    """Returns the features that `encode` cached for a log, or None.

    Args:
      path: path of the .npz file.
      log: log whose samples must be the encoded ones, in the same order.
    """
    kept = _read(Path(path))
    if not kept or not np.array_equal(kept["ids"], _hash_ids(log)):
        return None
    count = len(log.queries)
    if len(kept["image"]) != len(kept["ids"]):
        return None
    return _features(kept["image"], kept["text"], count)


def _hash_ids(log: ClickLog) -> np.ndarray:
    """Returns hashes of the IDs of queries and items, uint64 [Q + I]."""
    ids = [*log.queries["query_id"], *log.items["item_id"]]
    return pd.util.hash_array(np.array(ids, object))


def _cache(path: Path, **arrays: np.ndarray) -> bool:
    """Writes an .npz file atomically; a full disk is not an error.

    Returns:
      Whether the file was written.
    """

    def save_arrays(draft: Path) -> None:
        with open(draft, "wb") as file:
            np.savez(file, **arrays)

    try:
        files.write(path, save_arrays)
    except OSError as error:
        if error.errno not in command.NO_ROOM:
            raise
        reason = results.unwritable("The cache of features", path, error)
        terminal.say(
            f"{reason} Without the cache, the next run must encode everything "
            "again."
        )
        return False
    return True


def _read(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a file written by `encode`.

    Returns {} if the file is missing, damaged or not from `encode`.
    """
    try:
        with arrays.reading(path) as file, np.load(file) as kept:
            names = ("key", "notes", "ids", "image", "text")
            return {name: kept[name] for name in names if {*names} <= {*kept}}
    except (FileNotFoundError, arrays.DamagedError):
        return {}


def _identify(texts: Sequence[str], images: Sequence[str]) -> identity.Data:
    """Returns the identity of texts and images, independent of paths."""
    codes, files = pd.factorize(np.array(images, object))
    places = codes.astype(str).tolist()
    empty = [str(code) for code, file in enumerate(files) if not file]
    numbers = [str(code) for code, file in enumerate(files) if file]
    files = [os.fspath(file) for file in files if file]
    return identity.Data(
        identity.hash_texts(texts, places, empty),
        len(images),
        numbers,
        files,
        *identity.stat(files),
    ).require()


def _where_known(
    values: Sequence[str],
    encoder: Callable[[Sequence[str]], np.ndarray],
    parts: Path,
) -> np.ndarray:
    """Encodes all values except ""; rows of empty values are zeros.

    Args:
      values: N paths or texts; equal ones are encoded once.
      encoder: n values -> `[n, C]` float.
      parts: prefix of the files that cache the encoded parts.
    """
    values = np.array(values, object)
    known = values != ""
    if not known.any():
        return np.zeros((len(values), 1), np.float32)
    which, different = pd.factorize(values[known])
    encoded = []
    with progress.show(f"Encoding {parts.name}", len(different)) as count:
        for start in range(0, len(different), _PART):
            part = parts.with_name(f"{parts.name}-{start}.npz")
            these = different[start : start + _PART].tolist()
            encoded.append(_read_part(part, functools.partial(encoder, these)))
            count(len(these))
    encoded = np.concatenate(encoded)
    rows = np.zeros((len(values), encoded.shape[1]), np.float32)
    rows[known] = encoded[which]
    return rows


def _read_part(path: Path, encode: Callable[[], np.ndarray]) -> np.ndarray:
    """Returns a part; encodes and caches it if it is missing or damaged."""
    try:
        with arrays.reading(path) as file, np.load(file) as kept:
            return kept["encoded"]
    except (FileNotFoundError, arrays.DamagedError):
        encoded = encode()
        _cache(path, encoded=encoded)
        return encoded


def _features(image: np.ndarray, text: np.ndarray, queries: int) -> Features:
    return Features(image[:queries], image[queries:], text)
