"""Identifies data by a table's rows and the content of its images.

Paths and modification times do not matter. Rows are hashed. Every start
compares the sizes of image files, and their bytes only if the modification time
differs from the time recorded beside the derived data. Images in Parquet files
are identified by the digests in their names, which are hashed with the rows.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from mixer_jax.runtime import arrays, progress, threads
from mixer_jax.runtime.errors import PassingError, UserError
from mixer_jax.runtime.tabular import references, strings

if TYPE_CHECKING:
    import pandas as pd
DIGEST = "sha256"  # of images
NOTES = "images.npy"  # in the folder with data derived from the images

_BYTES = 16  # per digest
_NOTE = np.dtype(
    [
        ("name", "<u8"),  # hash of the path relative to the table
        ("size", "<i8"),
        ("time", "<i8"),
        ("digest", "u1", (_BYTES,)),
    ]
)
_EDGE = 1 << 20  # bytes hashed at each end of a large weights file
_READ = (".json", ".txt", ".model", ".safetensors", ".bin")


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """Rows and their n distinct image files, in order of first appearance.

    Attributes:
      rows: hash of the rows.
      count: the number of rows.
      images: paths relative to the table, and crop boxes; see `references`.
      files: their paths, prefixed with the table's folder.
      sizes: int64 [n], bytes; -1 for a missing file.
      times: int64 [n], nanoseconds of the last modification.
    """

    rows: str
    count: int
    images: list[str]
    files: list[str]
    sizes: np.ndarray
    times: np.ndarray

    @functools.cached_property
    def names(self) -> np.ndarray:
        """Hashes of the names of the images, uint64 [n]."""
        import pandas as pd

        return pd.util.hash_array(np.array(self.images, object))

    @property
    def sizes_hash(self) -> str:
        """The hash of the sizes of the image files."""
        return _hash(self.sizes.tobytes())

    @property
    def key(self) -> str:
        """The hash of rows and sizes, 16 hexadecimal digits."""
        return _hash(self.rows, self.sizes_hash)[:16]

    def content(self, notes: np.ndarray) -> str:
        """Returns the hash of the rows and of the images' bytes."""
        digests = np.ascontiguousarray(notes["digest"]).tobytes()
        return f"{DIGEST}:{_hash(self.rows, digests)}"

    def require(self) -> Data:
        """Returns this object after checking that all image files exist.

        Raises:
          UserError: if an image file is missing.
        """
        if missing := np.flatnonzero(self.sizes < 0).tolist():
            more = f", as are {len(missing) - 1} more" if missing[1:] else ""
            raise UserError(
                f"The image {self.files[missing[0]]} is missing{more}."
            )
        return self


def examine(
    frame: pd.DataFrame, root: str | os.PathLike, known: Data | None = None
) -> Data:
    """Hashes rows and looks up the sizes and times of their image files.

    Args:
      frame: rows of a sample table.
      root: the folder that the image paths are relative to.
      known: the identity of a table that contains these rows in this order;
        its sizes and times are reused.
    """
    if known is not None and len(frame) == known.count:
        return known
    names = frame["image"][~references.are_references(frame["image"])]
    images = [*filter(None, names.unique().tolist())]
    paths = references.files(images, root)
    if known is None:
        status = stat(paths)
    else:
        import pandas as pd

        at = pd.Index(known.images, dtype=object).get_indexer(images)
        status = np.stack([known.sizes[at], known.times[at]])
    return Data(hash_rows(frame), len(frame), images, paths, *status)


def describe(split: Data, used: Data) -> dict[str, Any]:
    """Returns hashes and counts that identify rows and images, for JSON.

    Args:
      split: all rows of a table's split.
      used: the rows used for training.
    """
    return {
        "split": {"samples": split.count, "rows": split.rows},
        "trained": {
            "samples": used.count,
            "rows": used.rows,
            "images": len(used.images),
            "sizes": used.sizes_hash,
        },
    }


def hash_rows(frame: pd.DataFrame) -> str:
    """Returns the hash of a frame's texts, column by column."""
    import pandas as pd

    texts = [
        references.contents(column) if name == "image" else column
        for name, column in frame.items()
        if not pd.api.types.is_numeric_dtype(column)
    ]
    return hash_texts(*texts)


def hash_texts(*lists: Sequence[str] | pd.Series) -> str:
    """Returns the hash of lists of texts."""
    digest = hashlib.sha256()
    for texts in lists:
        _add_texts(digest, texts)
    return digest.hexdigest()


def hash_json(value: Any) -> str:
    """Returns the hash of a JSON value."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def hash_names(names: Sequence[str]) -> str:
    """Returns the hash of a list of names, which may be very long."""
    lengths, text = hashlib.sha256(), hashlib.sha256()
    for array in strings.arrays(names):
        _, offsets, content = array.buffers()
        ends = np.frombuffer(offsets, np.int64)[array.offset :]
        ends = ends[: len(array) + 1]
        lengths.update(np.diff(ends).astype("<i8").tobytes())
        if ends[-1] > ends[0]:
            text.update(memoryview(content)[ends[0] : ends[-1]])
    return _hash(lengths.digest(), text.digest())


def _add_texts(digest, texts: Sequence[str] | pd.Series) -> None:
    # Hash the lengths too, so that different lists never have the same bytes.
    array = pa.array(texts, pa.large_string())
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    digest.update(len(array).to_bytes(8, "little"))
    if not len(array):
        return
    _, offsets, text = array.buffers()
    ends = np.frombuffer(offsets, np.int64)[array.offset :][: len(array) + 1]
    digest.update((ends - ends[0]).tobytes())
    if ends[-1] > ends[0]:
        digest.update(memoryview(text)[ends[0] : ends[-1]])


def stat(files: Sequence[str | os.PathLike]) -> np.ndarray:
    """Returns sizes and times of n files, int64 [2, n]; -1 if missing."""
    numbers = itertools.chain.from_iterable(map(stat_one, files))
    found = np.fromiter(numbers, np.int64, 2 * len(files))
    return np.ascontiguousarray(found.reshape(-1, 2).T)


def stat_one(file: str | os.PathLike) -> tuple[int, int]:
    """Returns the size and time of a file; -1 if it is missing."""
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return -1, -1
    return status.st_size, status.st_mtime_ns


def check_unchanged(
    files: Sequence[str | os.PathLike], status: np.ndarray
) -> None:
    """Checks that no image has changed since `stat` was called.

    Args:
      files: n paths.
      status: int64 `[2, n]`, their sizes and times.

    Raises:
      PassingError: if one was changed, removed or created.
    """
    changed = (stat(files) != status).any(0)
    if changed.any():
        raise changed_error(files[changed.argmax()])


def changed_error(file: str | os.PathLike) -> PassingError:
    """Returns the error for an image that changed during a preparation."""
    return PassingError(
        f"The image {file} was changed while the data was being prepared. Run "
        "this command again once no other program modifies the images."
    )


def digest(content: bytes) -> np.ndarray:
    """Returns the digest of an image's bytes, uint8 [16]."""
    return np.frombuffer(references.digest(content), np.uint8)


def make_notes(data: Data, digests: np.ndarray) -> np.ndarray:
    """Returns names, sizes, times and digests (uint8 [n, 16]) of the images."""
    notes = np.zeros(len(data.files), _NOTE)
    notes["name"] = data.names
    notes["size"], notes["time"] = data.sizes, data.times
    notes["digest"] = digests
    return notes


class Comparison(NamedTuple):
    """A comparison of image files with earlier notes.

    Attributes:
      notes: the current notes, for `write_notes`.
      changed: noted images whose bytes have changed.
      known: whether the earlier notes contain all images.
    """

    notes: np.ndarray
    changed: list[str]
    known: bool


def compare(folder: Path, data: Data, *, strict: bool = True) -> Comparison:
    """Compares image files with the notes in a folder; see `compare_notes`."""
    return compare_notes(read_notes(folder), data, strict=strict)


def kept_digests(folder: Path, data: Data) -> np.ndarray:
    """Returns the digests of the images described by a folder's notes.

    Reads only files whose time differs but whose size matches, because their
    bytes may be unchanged.

    Returns:
      uint8 [n, 16]; 0 for images that are new or have changed.
    """
    compared = compare_notes(read_notes(folder), data, strict=False, new=False)
    return compared.notes["digest"]


def compare_notes(
    old: np.ndarray, data: Data, *, strict: bool = True, new: bool = True
) -> Comparison:
    """Compares image files with earlier notes.

    Reads only files that have no note or whose size or time has changed.

    Args:
      old: notes from `make_notes`; empty if there are none.
      data: the images.
      new: whether to read files without a note or with a new size; otherwise,
        their digest is 0.
      strict: whether an image that cannot be read is an error; otherwise, its
        digest is 0.

    Raises:
      UserError: if an image cannot be read.
    """
    notes = make_notes(data, np.zeros((len(data.files), _BYTES), np.uint8))
    was, noted = old, np.ones(len(old), bool)
    if not np.array_equal(old["name"], notes["name"]):
        old = old if len(old) else np.zeros(1, _NOTE)  # matches no name
        names, first = np.unique(old["name"], return_index=True)
        place = np.searchsorted(names, notes["name"])
        was = old[first[np.minimum(place, len(names) - 1)]]
        noted = was["name"] == notes["name"]
    sized = noted & (was["size"] == notes["size"])
    same = sized & (was["time"] == notes["time"])
    notes["digest"][same] = was["digest"][same]
    other = np.flatnonzero(~same if new else sized & ~same)
    paths = [Path(data.files[i]) for i in other]
    notes["digest"][other] = _read_digests(paths, strict)
    changed = noted & (notes["digest"] != was["digest"]).any(1)
    return Comparison(
        notes,
        [data.images[i] for i in np.flatnonzero(changed)],
        bool(noted.all()),
    )


def read_notes(folder: Path) -> np.ndarray:
    """Returns the notes in a folder; empty if missing or unreadable."""
    try:
        notes = arrays.read(folder / NOTES)
        if notes.dtype == _NOTE and notes.ndim == 1:
            return notes
    except (OSError, ValueError):
        pass
    return np.zeros(0, _NOTE)


def write_notes(folder: Path, notes: np.ndarray) -> None:
    """Writes notes to a folder unless they equal the existing ones."""
    if (folder / NOTES).exists() and np.array_equal(read_notes(folder), notes):
        return
    arrays.write(folder / NOTES, notes)


def _read_digests(paths: Sequence[Path], strict: bool) -> np.ndarray:
    def read(file: Path) -> np.ndarray:
        try:
            return digest(file.read_bytes())
        except OSError as error:
            if not strict:
                return np.zeros(_BYTES, np.uint8)
            raise UserError(
                f"The image {file} cannot be read: {error.strerror}."
            ) from error

    with threads.pool() as pool:
        digests = pool.map(read, paths)
        found = list(progress.track(digests, "Hashing images", len(paths)))
    return np.array(found, np.uint8).reshape(len(paths), _BYTES)


def hash_folder(name: str | os.PathLike) -> str:
    """Returns the hash of a file or folder of weights or of a tokenizer.

    For a large file, only the size and the first and last megabyte are hashed.

    Args:
      name: the file or folder.

    Returns:
      Hexadecimal digits; "" if the file or folder does not exist.
    """
    path = Path(name)
    if path.is_file():
        return _hash(_edges(path))
    if not path.is_dir():
        return ""
    found = sorted(
        file
        for file in path.iterdir()
        if file.suffix in _READ and file.is_file()
    )
    return _hash(*(x for file in found for x in (file.name, _edges(file))))


def _edges(path: Path) -> bytes:
    size = path.stat().st_size
    with open(path, "rb") as file:
        content = file.read(_EDGE)
        if size > _EDGE:
            file.seek(max(_EDGE, size - _EDGE))
            content += file.read()
    return size.to_bytes(8, "little") + content


def _hash(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        part = part.encode() if isinstance(part, str) else part
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
