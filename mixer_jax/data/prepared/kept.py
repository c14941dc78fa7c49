"""Finds the rows of a table that an earlier version already contains."""

import contextlib
import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from mixer_jax.data.prepared import records, tasks
from mixer_jax.data.tables import table
from mixer_jax.runtime import arrays, identity
from mixer_jax.runtime.tabular import references

ROWS = "rows.npy"
# A row's key, its record (-1 if it was left out) and its image's digest.
_ROW = np.dtype(
    [("key", "<u8", (2,)), ("record", "<i8"), ("digest", "u1", (16,))]
)
_SEEDS = ("mixer_jax rows 0", "mixer_jax rows 1")  # 16 characters each
_MAX_OPEN = 32  # files of an earlier version that a shard reads
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


class Images:
    """The images of the rows of a frame.

    Attributes:
      data: the identity of the rows.
      places: int64 `[N]`, the position of each row's image among the distinct
        images; -1 for rows without an image file.
    """

    def __init__(self, frame: pd.DataFrame, data: identity.Data):
        self.data = data
        # The distinct images are in order of their first appearance.
        codes, distinct = pd.factorize(frame["image"])
        files = ~references.are_references(pd.Series(distinct))
        files &= np.asarray(distinct != "")
        self.places = np.where(files, np.cumsum(files) - 1, -1)[codes]

    def status(self) -> np.ndarray:
        """Returns each row's image size and time, int64 [2, N]; 0 if none."""
        found = np.stack([self.data.sizes, self.data.times], axis=1)
        return np.ascontiguousarray(self.per_row(found).T)

    def per_row(self, values: np.ndarray) -> np.ndarray:
        """Returns the values of each row's image file; 0 if there is none.

        Args:
          values: `[n, ...]`, values of the distinct images.
        """
        none = np.zeros((1, *values.shape[1:]), values.dtype)
        return np.concatenate([values, none])[self.places]

    def per_image(self, values: np.ndarray) -> np.ndarray:
        """Returns the values of the distinct images; 0 where no row has any.

        Args:
          values: `[N, ...]`, values of each row's image; 0 for unknown ones.
        """
        known = (self.places >= 0) & values.any(1)
        shape = len(self.data.images), *values.shape[1:]
        found = np.zeros(shape, values.dtype)
        found[self.places[known]] = values[known]
        return found


def keys(frame: pd.DataFrame, sizes: np.ndarray, max_pixels: int) -> np.ndarray:
    """Returns a hash of each row, uint64 [N, 2].

    It depends on the cells, on the size of the image, and on the pixel limit
    that the image was checked against.

    Args:
      frame: rows of a sample table.
      sizes: int64 `[N]`, the size of each row's image.
      max_pixels: see `decoding.decode`.
    """
    out = np.full((len(frame), 2), max_pixels, np.uint64)
    cells = {name: frame[name] for name in table.COLUMNS}
    cells["image"] = references.contents(frame["image"])
    # Convert one column at a time: cells of all columns would take several
    # times the memory.
    columns = (column.to_numpy(object) for column in cells.values())
    for values in itertools.chain(columns, [sizes.astype(np.uint64)]):
        # Most columns repeat their cells.
        codes, distinct = pd.factorize(values)
        for column, seed in enumerate(_SEEDS):
            hashes = pd.util.hash_array(
                distinct, hash_key=seed, categorize=False
            )
            out[:, column] *= _FACTOR
            out[:, column] ^= hashes[codes]
    return out


def make(
    keys: np.ndarray, places: np.ndarray, digests: np.ndarray
) -> np.ndarray:
    """Returns the array that `ROWS` holds, one entry per row."""
    out = np.zeros(len(keys), _ROW)
    out["key"], out["record"], out["digest"] = keys, places, digests
    return out


def read(folder: Path) -> np.ndarray:
    """Returns a version's rows, memory-mapped.

    Raises:
      OSError or ValueError: if the file is missing or damaged.
    """
    rows = arrays.read(folder / ROWS, mapped=True)
    if rows.dtype != _ROW or rows.ndim != 1:
        raise ValueError(f"{ROWS} has unexpected fields")
    return rows


class Kept:
    """Rows found in an earlier version, by their position in a frame."""

    def __init__(
        self,
        folder: Path,
        parts: list[records.Part],
        now: np.ndarray,
        digests: np.ndarray,
    ):
        """Compares the rows of an earlier version with the current rows.

        Args:
          folder: the folder of the earlier version.
          parts: its files.
          now: the keys of the current rows; see `keys`.
          digests: uint8 `[N, 16]`, the digests of their images.

        Raises:
          OSError or ValueError: if the earlier version is damaged.
        """
        rows = read(folder)
        first, places = np.unique(rows["key"][:, 0], return_index=True)
        at = np.searchsorted(first, now[:, 0])
        found = places[np.minimum(at, len(places) - 1)]
        same = (rows["key"][found] == now).all(1)
        same &= (rows["digest"][found] == digests).all(1)
        # Equal rows do not share a record.
        same[same] = ~pd.Series(found[same]).duplicated().to_numpy()
        self._parts = tuple(parts)
        self._records = np.where(same, rows["record"][found], -1)
        self._digests = rows["digest"][found]
        sizes = [part.examples_in_shard for part in parts]
        self._ends = np.cumsum(np.array(sizes, np.int64))

    def size(self, part: int) -> int:
        """Returns the number of records of a file; 0 for part -1."""
        return self._parts[part].examples_in_shard if part >= 0 else 0

    def count_copied(self, shard: tasks.Shard) -> int:
        """Returns the number of kept rows that writing a shard would copy."""
        known = self._records[shard.rows]
        whole = tasks.Earlier(self._parts, known, known).same_part()
        return 0 if whole else int((known >= 0).sum())

    def main_part(self, shard: tasks.Shard) -> tuple[int, np.ndarray]:
        """Returns the file that contains the most kept rows of a shard.

        Returns:
          The file's position, -1 if there is none; and which rows of the shard
          are in it, bool `[n]`.
        """
        known = self._records[shard.rows]
        of_part = np.searchsorted(self._ends, known, side="right")
        of_part[known < 0] = -1
        if (known < 0).all():
            return -1, known >= 0
        part = int(np.bincount(of_part[known >= 0]).argmax())
        return part, of_part == part

    def for_shard(self, shard: tasks.Shard) -> tasks.Earlier | None:
        """Returns the kept rows of a shard; None if there are none."""
        known = self._records[shard.rows]
        of_part = np.searchsorted(self._ends, known, side="right")
        kept = known >= 0
        # Rows of a reordered table may come from hundreds of files, too many to
        # keep open. Use the files with the most rows; read the images of the
        # other rows again.
        files, counts = np.unique(of_part[kept], return_counts=True)
        often = files[np.argsort(-counts, kind="stable")[:_MAX_OPEN]]
        if not len(often):
            return None
        often.sort()
        parts = tuple(self._parts[part] for part in often)
        # Count the records of these files only.
        sizes = [part.examples_in_shard for part in parts]
        moved = np.zeros(len(self._parts) + 1, np.int64)
        moved[often] = np.cumsum(sizes) - self._ends[often]
        known = known + moved[of_part]
        known[~(kept & np.isin(of_part, often))] = -1
        return tasks.Earlier(parts, known, self._digests[shard.rows])

    def new_rows(self) -> np.ndarray:
        """Returns the ascending positions of the rows that are not kept."""
        return np.flatnonzero(self._records < 0)

    @property
    def count(self) -> int:
        """The number of kept rows."""
        return int((self._records >= 0).sum())


def find(
    folder: Path,
    parts: list[records.Part],
    now: np.ndarray,
    digests: np.ndarray,
) -> Kept | None:
    """Returns the rows kept from an earlier version; None if it is damaged."""
    with contextlib.suppress(OSError, ValueError):
        kept = Kept(folder, parts, now, digests)
        return kept if kept.count else None
    return None
