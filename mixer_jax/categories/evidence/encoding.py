"""Features of a click log, cached on disk because encoding is slow."""

import functools
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from mixer_jax.categories.click_log import ClickLog
from mixer_jax.categories.evidence.graph import Features
from mixer_jax.runtime import (
    arrays,
    command,
    files,
    identity,
    processes,
    progress,
    results,
    terminal,
)
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.ownership import sharing
from mixer_jax.runtime.tabular import references

_PART = 4096  # images or texts per cached part; a part takes under a minute

Encoder = Callable[[Sequence[str]], np.ndarray]
Widths = Callable[[], tuple[int, int]]


class _Known(NamedTuple):
    """The identity of a log's samples, and the arrays cached for them.

    Attributes:
      key: identifies the samples and the encoders.
      notes: notes about the images, see `identity`.
      ids: hashes of the IDs, uint64 [Q + I].
      kept: the cached arrays; {} if the cache has another key.
    """

    key: str
    notes: np.ndarray
    ids: np.ndarray
    kept: dict[str, np.ndarray]


def encode(
    log: ClickLog,
    path: str | Path,
    encoders: str,
    encode_images: Encoder,
    encode_texts: Encoder,
    *,
    widths: Widths | None = None,
) -> Features:
    """Encodes a log's images and texts, or reads the cached features.

    Parts are cached as they are encoded, so an interrupted run can be resumed.

    Args:
      log: log whose samples are encoded.
      path: the .npz file that caches the features; a file for other samples
        or encoders is replaced.
      encoders: name of the encoders and their settings.
      encode_images: image paths -> `[N, C]` float.
      encode_texts: texts -> `[N, T]` float.
      widths: returns C and T. If given, the size of the features is printed
        and compared with the free space before computing them.

    Raises:
      UserError: if the disk has too little space; gives both sizes.
    """
    path = Path(path)
    images, texts = _values(log, encode_images, encode_texts)
    folder, known = _begin(path, log, encoders, images, texts, widths)
    made = known.kept
    if not made:
        made = {
            "notes": known.notes,
            "ids": known.ids,
            "image": images.collect(folder),
            "text": texts.collect(folder),
        }
        if _cache(path, key=np.array(known.key), **made):
            shutil.rmtree(folder.parent)
    return _features(made["image"], made["text"], len(log.queries))


def encode_together(
    log: ClickLog,
    path: str | Path,
    encoders: str,
    encode_images: Encoder,
    encode_texts: Encoder,
    *,
    widths: Widths | None = None,
) -> None:
    """Encodes a log's images and texts in all processes of a command.

    The processes divide the parts among themselves. Afterwards, `encode` with
    the same arguments finds them all; call it in process 0 first.

    Raises:
      UserError: if the disk has too little space, or the processes do not share
        the folder of `path`.
    """
    place, count = processes.place()
    if count == 1:
        return
    path, key = Path(path), ""
    images, texts = _values(log, encode_images, encode_texts)
    data = _identify([encoders, *texts.values], images.values)
    if place == 0:
        _, known = _begin(path, log, encoders, images, texts, widths)
        key = "" if known.kept else known.key
    processes.barrier("identity", processes.PATIENCE)
    key = processes.gather("features", key)[0]
    keys = processes.gather("samples", data.key)
    if len({*keys}) > 1:
        other = next(i for i, one in enumerate(keys) if one != keys[0])
        raise UserError(
            f"The log of process {other} differs from that of process 0, or "
            "its images have different sizes. Give all processes the same log "
            "and images."
        )
    if not key:
        return
    sharing.check(
        path.parent,
        "The folder",
        "the features need a folder that all of them share, such as one on a "
        "network file system.",
    )
    folder = _parts_folder(path) / key
    images.make(folder, slice(place, None, count))
    # Continue the round-robin assignment of the images.
    texts.make(folder, slice((place - len(images.starts)) % count, None, count))
    processes.barrier("parts", processes.PATIENCE)


def _values(
    log: ClickLog, encode_images: Encoder, encode_texts: Encoder
) -> tuple["_Values", "_Values"]:
    """Returns the images and the texts of a log."""
    images = [*log.queries["image"], *log.items["image"]]
    texts = log.items["text"].tolist()
    return (
        _Values("images", images, encode_images),
        _Values("texts", texts, encode_texts),
    )


def _parts_folder(path: Path) -> Path:
    return path.with_name(f".{path.name}.parts")


def _begin(
    path: Path,
    log: ClickLog,
    encoders: str,
    images: "_Values",
    texts: "_Values",
    widths: Widths | None,
) -> tuple[Path, _Known]:
    """Looks up the cached features; if there are none, prepares a folder.

    Returns:
      The folder of the parts, and what is known about the samples.
    """
    parts = _parts_folder(path)
    data = _identify([encoders, *texts.values], images.values)
    known = _look_up(path, parts, data, _hash_ids(log))
    folder = parts / known.key
    if known.kept:
        return folder, known
    for other in parts.glob("*"):
        if other != folder and other.is_dir():
            shutil.rmtree(other)
    files.make_folder(folder)
    identity.write_notes(parts, known.notes)
    if widths is not None:
        _check_room(folder, images, texts, widths())
    return folder, known


def _look_up(
    path: Path, folder: Path, data: identity.Data, ids: np.ndarray
) -> _Known:
    """Identifies the samples, and reads their cached features, if any."""
    kept = _read(path)
    old = kept.get("notes", identity.read_notes(folder))
    notes = identity.compare_notes(old, data).notes
    key = data.content(notes)
    if not kept or str(kept["key"]) != key:
        return _Known(key, notes, ids, {})
    current = {"notes": notes, "ids": ids}  # Either may have changed.
    if any(not np.array_equal(kept[a], b) for a, b in current.items()):
        _cache(path, **kept | current)
    return _Known(key, notes, ids, kept)


def _check_room(
    folder: Path, images: "_Values", texts: "_Values", widths: tuple[int, int]
) -> None:
    """Prints the size of the features; checks that they fit on the disk."""
    width, text_width = widths
    parts = 4 * (len(images.known) * width + len(texts.known) * text_width)
    whole = 4 * (len(images.values) * width + len(texts.values) * text_width)
    done = sum(part.stat().st_size for part in folder.iterdir())
    message = results.require_room(
        folder.parents[1],
        max(parts - done, 0) + whole,
        f"The features of {len(images.known):,} images and "
        f"{len(texts.known):,} texts",
    )
    if done < parts:
        terminal.say(message, console=terminal.Console(stderr=True))


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
    files = pd.Series(files, dtype=object)
    inside = references.are_references(files)
    is_file = (files != "").to_numpy(bool) & ~inside
    empty = np.flatnonzero(~is_file).astype(str).tolist()
    digests = references.contents(files[inside])
    numbers = np.flatnonzero(is_file).astype(str).tolist()
    boxes = [references.split(file)[1] for file in files[is_file]]
    files = [references.file_of(file) for file in files[is_file]]
    return identity.Data(
        identity.hash_texts(texts, places, empty, digests, boxes),
        len(images),
        numbers,
        files,
        *identity.stat(files),
    ).require()


class _Values:
    """Paths or texts to encode; encodes each distinct one once, "" never."""

    def __init__(self, name: str, values: Sequence[str], encoder: Encoder):
        """Finds the distinct values.

        Args:
          name: "images" or "texts".
          values: N paths or texts.
          encoder: n values -> `[n, C]` float.
        """
        self.name, self.values, self._encoder = name, values, encoder
        cells = np.array(values, object)
        self._given = cells != ""
        self._which, self.known = pd.factorize(cells[self._given])
        self.starts = range(0, len(self.known), _PART)

    def make(self, folder: Path, own: slice) -> None:
        """Encodes and caches some of the parts.

        Raises:
          UserError: if a part cannot be written.
        """
        for _ in self._parts(folder, self.starts[own], must_keep=True):
            pass

    def collect(self, folder: Path) -> np.ndarray:
        """Returns the rows of all values, f32 `[N, C]`; 0 for empty values.

        Parts that are missing or damaged are encoded.
        """
        if not len(self.known):
            return np.zeros((len(self.values), 1), np.float32)
        encoded = np.concatenate(list(self._parts(folder, self.starts)))
        rows = np.zeros((len(self.values), encoded.shape[1]), np.float32)
        rows[self._given] = encoded[self._which]
        return rows

    def _parts(
        self, folder: Path, starts: Sequence[int], must_keep: bool = False
    ) -> Iterator[np.ndarray]:
        """Yields the features of some parts; encodes those not cached."""
        some = [self.known[start : start + _PART] for start in starts]
        label, total = f"Encoding {self.name}", sum(map(len, some))
        with progress.show(label, total) as count:
            for start, values in zip(starts, some, strict=True):
                make = functools.partial(self._encoder, values.tolist())
                path = folder / f"{self.name}-{start}.npz"
                yield _read_part(path, make, must_keep)
                count(len(values))


def _read_part(
    path: Path, encode: Callable[[], np.ndarray], must_keep: bool
) -> np.ndarray:
    """Returns a part; encodes and caches it if it is missing or damaged."""
    try:
        with arrays.reading(path) as file, np.load(file) as kept:
            return kept["encoded"]
    except (FileNotFoundError, arrays.DamagedError):
        encoded = encode()
        if not _cache(path, encoded=encoded) and must_keep:
            raise UserError(
                f"Another process needs {path}, which cannot be written. Free "
                "up space, and run the same command again to resume."
            ) from None
        return encoded


def _features(image: np.ndarray, text: np.ndarray, queries: int) -> Features:
    return Features(image[:queries], image[queries:], text)
