"""Reads the samples of a prepared data set."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mixer_jax.data.images import crops
from mixer_jax.data.prepared import generations, records
from mixer_jax.runtime import arrays
from mixer_jax.runtime.errors import UserError


class PreparedSource:
    """Prepared samples, read from array_record files."""

    def __init__(
        self,
        folder: os.PathLike,
        parts: Sequence[tuple[str, int]],
        places: np.ndarray | Path,
        hold: generations.Hold | None = None,
    ):
        """Opens the files.

        Args:
          folder: the folder of the files.
          parts: the name and the number of records of each file.
          places: int64 `[N]`, the record of each sample, or the path of this
            array, which is then mapped into memory.
          hold: keeps the folder from being removed.
        """
        self._folder = Path(os.path.realpath(folder))
        self._parts, self._given, self._hold = tuple(parts), places, hold
        self._open()

    def _open(self) -> None:
        self._places = self._given
        if isinstance(self._given, Path):
            places = arrays.read(self._given, mapped=True)
            self._places = np.asarray(places)
        self._records = records.source(
            [
                records.Part(str(self._folder / name), count)
                for name, count in self._parts
            ]
        )

    def __getstate__(self) -> dict:
        # Unpickling reopens the files; the lock stays with this process.
        own = ("_records", "_hold", "_places")
        return {k: v for k, v in self.__dict__.items() if k not in own}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _hold=None)
        self._open()

    def _read(self, row: int, *fields: str) -> list[bytes]:
        try:
            record = self._records[int(self._places[row])]
            return records.decode(record, *fields)
        except Exception as error:
            # array_record and protobuf raise many types of errors.
            (reason, *_) = str(error).splitlines() or [repr(error)]
            raise UserError(
                f"The prepared data in {self._folder} cannot be read "
                f"({reason}). If it is damaged, remove that folder and run "
                "the same command to prepare the data again."
            ) from error

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self._places)

    def __getitem__(self, row: int) -> tuple[bytes, str]:
        """Returns a row's encoded image (b"" if it has none) and text."""
        image, box, text = self._read(row, "image", "box", "text")
        return crops.attach(image, box.decode()), text.decode()

    def text(self, row: int) -> str:
        """Returns a row's text."""
        (text,) = self._read(row, "text")
        return text.decode()

    def name(self, row: int) -> str:
        """Returns the name of a row's image for error messages."""
        (sample_id,) = self._read(row, "sample_id")
        return f"sample {sample_id.decode()}"
