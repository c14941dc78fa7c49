"""A list of strings in a memory-mapped file."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_CHUNK = 1 << 16  # strings converted at once
_BATCH = 1 << 20  # strings per record batch of a file
_COLUMN = "text"
_SCHEMA = pa.schema([(_COLUMN, pa.large_string())])


class Strings(Sequence[str]):
    """The strings of an Arrow file, in order.

    Only requested strings are converted to Python objects. A copy in another
    process opens the same file.
    """

    def __init__(self, path: str | os.PathLike):
        """Opens a file written by `write`.

        Raises:
          OSError: if the file cannot be read.
          ValueError: if it is damaged.
        """
        self._path = Path(os.path.abspath(path))
        self._open()

    def _open(self) -> None:
        content = np.memmap(self._path, np.uint8, "r")
        try:
            reader = pa.ipc.open_file(pa.py_buffer(content))
            # Reading all batches as one array would copy them.
            self._arrays = [
                reader.get_batch(number)[_COLUMN]
                for number in range(reader.num_record_batches)
            ]
        except (pa.ArrowException, KeyError, IndexError) as error:
            raise ValueError(f"{self._path} is damaged") from error
        if {array.type for array in self._arrays} - {pa.large_string()}:
            raise ValueError(f"{self._path} does not contain strings")
        self._ends = np.cumsum(
            [len(array) for array in self._arrays], dtype=int
        )

    def __getstate__(self) -> Path:
        return self._path

    def __setstate__(self, path: Path) -> None:
        self._path = path
        self._open()

    def __len__(self) -> int:
        """Returns the number of strings."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int | slice) -> str | list[str]:
        """Returns one string, or a list of strings."""
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return self.array(start, stop).to_pylist()
            return [self[place] for place in range(start, stop, step)]
        place = range(len(self))[index]
        return self.array(place, place + 1)[0].as_py()

    def __iter__(self) -> Iterator[str]:
        """Yields the strings in order."""
        for chunk in chunks(self):
            yield from chunk

    def array(self, start: int, stop: int) -> pa.LargeStringArray:
        """Returns a range of strings; a range across two batches is copied."""
        parts = [pa.array([], pa.large_string())]
        number = int(np.searchsorted(self._ends, start, side="right"))
        while start < stop:
            array, end = self._arrays[number], int(self._ends[number])
            last = min(stop, end) - end
            parts.append(array[len(array) + start - end : len(array) + last])
            start, number = end, number + 1
        return parts[-1] if len(parts) <= 2 else pa.concat_arrays(parts)

    def validate(self) -> None:
        """Checks the structure and the encoding of all strings.

        Raises:
          ValueError: if the file is damaged.
        """
        try:
            for array in self._arrays:
                array.validate(full=True)
        except pa.ArrowException as error:
            raise ValueError(f"{self._path} is damaged") from error


def chunks(strings: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yields a sequence in slices of bounded length."""
    for start in range(0, len(strings), _CHUNK):
        yield strings[start : start + _CHUNK]


def arrays(
    strings: Sequence[str], size: int = 0
) -> Iterator[pa.LargeStringArray]:
    """Yields a sequence as arrays of bounded length."""
    size = size or _CHUNK
    for start in range(0, len(strings), size):
        yield _array(strings, start, min(start + size, len(strings)))


def _array(
    strings: Sequence[str], start: int, stop: int
) -> pa.LargeStringArray:
    if isinstance(strings, Strings):
        return strings.array(start, stop)
    return pa.array(strings[start:stop], pa.large_string())


def json_parts(strings: Sequence[str]) -> Iterator[str]:
    """Yields the parts of a JSON list with one string per line."""
    separator = "["
    for chunk in chunks(strings):
        yield f"{separator}\n{json.dumps(list(chunk), indent=0)[2:-2]}"
        separator = ","
    yield "\n]\n" if len(strings) else "[]\n"


def write(path: Path, strings: Sequence[str]) -> None:
    """Writes strings to a file in parts of bounded length; not atomic.

    Raises:
      OSError: if the file cannot be written.
    """
    with open(path, "wb") as file, pa.ipc.new_file(file, _SCHEMA) as out:
        for array in arrays(strings, _BATCH):
            out.write_batch(pa.record_batch([array], schema=_SCHEMA))


def is_ascending(strings: Sequence[str]) -> bool:
    """Returns whether strings are distinct and sorted by code points."""
    last = pa.array([], pa.large_string())
    for array in arrays(strings):
        joined = pa.concat_arrays([last, array])
        ordered = pc.less(joined[:-1], joined[1:])
        if not pc.all(ordered, min_count=0).as_py():
            return False
        last = array[-1:]
    return True


def find(names: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """Finds strings in another sequence.

    If both are sorted, like the category IDs of a table, they are read once and
    in parts, so that only the result and one part of each are in memory.
    Unsorted sequences are loaded whole.

    Args:
      names: N distinct strings.
      known: distinct strings.

    Returns:
      int32 `[N]`, the position of each name in `known`; -1 if it is absent.
    """
    if not (is_ascending(names) and is_ascending(known)):
        import pandas as pd  # not needed by processes that only read

        index = pd.Index(list(known), dtype=object)
        return index.get_indexer(list(names)).astype(np.int32)
    found = np.full(len(names), -1, np.int32)
    start = first = 0
    while start < len(names) and first < len(known):
        ours = _array(names, start, min(start + _CHUNK, len(names)))
        theirs = _array(known, first, min(first + _CHUNK, len(known)))
        # Compare the parts up to the string where one of them ends.
        end = min(ours[-1].as_py(), theirs[-1].as_py())
        ours, theirs = _up_to(ours, end), _up_to(theirs, end)
        places = pc.index_in(ours, theirs).fill_null(-1 - first)
        stop = start + len(ours)
        found[start:stop] = places.to_numpy(zero_copy_only=False) + first
        start, first = stop, first + len(theirs)
    return found


def _up_to(array: pa.LargeStringArray, end: str) -> pa.LargeStringArray:
    """Returns the strings of a sorted array up to and including `end`."""
    return array[: pc.sum(pc.less_equal(array, end)).as_py()]
