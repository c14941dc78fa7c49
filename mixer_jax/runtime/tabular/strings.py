"""A list of strings in a file, which is mapped into memory instead of read."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

_CHUNK = 1 << 16  # strings that are converted at once
_COLUMN = "text"


class Strings(Sequence[str]):
    """The strings of an Arrow file, in order.

    Only strings that are asked for become Python objects. A copy in another
    process opens the same file.
    """

    def __init__(self, path: str | os.PathLike):
        """Opens a file that `write` has written.

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
            self._array = reader.get_batch(0)[_COLUMN]
        except (pa.ArrowException, KeyError, IndexError) as error:
            raise ValueError(f"{self._path} is damaged") from error
        if self._array.type != pa.large_string():
            raise ValueError(f"{self._path} does not contain strings")

    def __getstate__(self) -> Path:
        return self._path

    def __setstate__(self, path: Path) -> None:
        self._path = path
        self._open()

    def __len__(self) -> int:
        """Returns the number of strings."""
        return len(self._array)

    def __getitem__(self, index: int | slice) -> str | list[str]:
        """Returns one string, or a list of strings."""
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return self._array[start : max(start, stop)].to_pylist()
            return [self[place] for place in range(start, stop, step)]
        return self._array[range(len(self))[index]].as_py()

    def __iter__(self) -> Iterator[str]:
        """Yields the strings in order."""
        for chunk in chunks(self):
            yield from chunk


def chunks(strings: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yields a sequence in slices of bounded length."""
    for start in range(0, len(strings), _CHUNK):
        yield strings[start : start + _CHUNK]


def to_json(strings: Sequence[str]) -> str:
    """Returns a JSON list with one string per line."""
    parts = (json.dumps(list(c), indent=0)[2:-2] for c in chunks(strings))
    return "[\n" + ",\n".join(parts) + "\n]\n"


def write(path: Path, strings: Sequence[str]) -> None:
    """Writes strings to a file; not atomic.

    Raises:
      OSError: if the file cannot be written.
    """
    array = pa.array(strings, pa.large_string())
    batch = pa.record_batch([array], names=[_COLUMN])
    with open(path, "wb") as file, pa.ipc.new_file(file, batch.schema) as out:
        out.write_batch(batch)
