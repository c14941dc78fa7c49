"""Figures of finished measurements, saved so that a rerun can skip them."""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from mixer_jax.runtime import files


class Finished:
    """Figures by name, in a file tied to the data that they depend on."""

    def __init__(self, path: str | os.PathLike | None, data: str):
        """Reads the file, unless it is damaged or belongs to other data.

        Args:
          path: the file; None to keep the figures in memory only.
          data: identifies everything that the figures depend on.
        """
        self._path = None if path is None else pathlib.Path(path)
        self._data = data
        self._figures: dict[str, Any] = {}
        with contextlib.suppress(
            OSError, ValueError, LookupError, TypeError, RecursionError
        ):
            if self._path is not None:
                kept = json.loads(self._path.read_text("utf-8"))
                if kept["data"] == data:
                    self._figures = dict(kept["figures"])

    def __contains__(self, name: str) -> bool:
        """Returns whether a measurement is finished."""
        return name in self._figures

    def __getitem__(self, name: str) -> Any:
        """Returns the figures of a finished measurement."""
        return self._figures[name]

    def add(self, name: str, figures: Any) -> None:
        """Stores the figures of a measurement, which must be JSON values."""
        self._figures[name] = figures
        if self._path is None:
            return
        text = json.dumps({"data": self._data, "figures": self._figures})
        # If the disk is full, continue: writing the result reports the error.
        with contextlib.suppress(OSError):
            files.write_text(self._path, text + "\n")

    def once(self, name: str, measure: Callable[[], Any]) -> Any:
        """Returns a measurement's saved figures, or measures and saves them."""
        if name not in self:
            self.add(name, measure())
        return self[name]


def identify(arrays: Iterable[np.ndarray], *texts: str) -> str:
    """Returns a hash of numeric arrays and texts."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array))
    digest.update(json.dumps(texts).encode())
    return digest.hexdigest()
