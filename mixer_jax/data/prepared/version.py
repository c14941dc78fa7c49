"""Opens a version of a prepared data set, after checking its files' sizes."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mixer_jax.data.images import decoding, faults
from mixer_jax.data.images.faults import UnreadableImageError
from mixer_jax.data.prepared import (
    generations,
    kept,
    records,
    tasks,
    tfds_files,
)
from mixer_jax.data.prepared.source import PreparedSource
from mixer_jax.data.tables import samples
from mixer_jax.runtime import arrays, identity
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import references, strings

SKIPPED = "skipped.csv"
TRAINING, PLACES = "training", "records.npy"
IMAGES = "images.arrow"
# Files of TFDS's description, each with a required key.
_TFDS_KEYS = {"dataset_info.json": "splits", "features.json": "featuresDict"}
# Faults that may not be due to an image's bytes.
_PASSING = {
    *(faults.UNREADABLE, faults.FOLDER, faults.UNSUPPORTED, faults.TOO_LARGE)
}


class Prepared(NamedTuple):
    """A prepared version of a frame.

    Attributes:
      folder: the version's folder, which is not removed while this exists.
      hold: the lock that protects it.
      manifest: the content of manifest.json.
      parts: the name and the number of records of each file.
      rows: the version's rows; see `kept.make`.
      skipped: the rows whose images cannot be decoded.
      owned: whether it was prepared for this table rather than an equal one.
    """

    folder: Path
    hold: generations.Hold
    manifest: dict[str, Any]
    parts: list[tuple[str, int]]
    rows: np.ndarray
    skipped: tuple[tasks.Fault, ...]
    owned: bool = True

    def source(self, rows: np.ndarray | None = None) -> PreparedSource:
        """Returns the samples of some of the frame's rows.

        Args:
          rows: int `[n]`, positions in the frame; None for all rows.

        Raises:
          ValueError: if one of the rows was left out.
        """
        places = self.rows["record"]
        places = places if rows is None else places[rows]
        if (places < 0).any():
            raise ValueError("Some of these rows were left out.")
        return self._open_source(places)

    def training(self) -> tuple[samples.Samples, PreparedSource]:
        """Returns the columns and the content of the training samples.

        These are all rows except those left out, and those that are then alone
        in their category.
        """
        folder = self.folder / TRAINING
        return samples.read(folder), self._open_source(folder / PLACES)

    def _open_source(self, places: np.ndarray | Path) -> PreparedSource:
        where = self.folder / tfds_files.FOLDER
        return PreparedSource(where, self.parts, places, self.hold)

    def remove_others(self) -> None:
        """Removes the other versions of this table, unless in use."""
        if self.owned:
            generations.remove_others(self.folder)

    def errors(
        self, root: Path, images: pd.Series
    ) -> tuple[np.ndarray, list[UnreadableImageError]]:
        """Returns the positions of the rows left out, and their errors.

        Args:
          root: the folder that image paths are relative to.
          images: the current names of the frame's images. Images in Parquet
            files may have been moved to other rows or files.
        """
        rows = np.array([fault.row for fault in self.skipped], int)
        names = images.iloc[rows]
        return rows, [
            UnreadableImageError(
                f"{references.label(root / name)}{fault.reason}", fault.kind
            )
            for name, fault in zip(names, self.skipped, strict=True)
        ]


def newly_readable(
    skipped: Sequence[tasks.Fault], root: Path, max_pixels: int
) -> str:
    """Returns an image that could not be read before, but can now.

    Permissions, the decoder and the free memory may have changed. Other faults
    change only if the bytes do.

    Args:
      skipped: the rows left out.
      root: the folder that the image paths are relative to.
      max_pixels: see `decoding.decode`.

    Returns:
      The path of the first such image; "" if there is none.
    """
    for fault in skipped:
        path = root / fault.image
        if fault.kind in _PASSING:
            with contextlib.suppress(UnreadableImageError):
                decoding.check(path, max_pixels)
                return str(path)
    return ""


def read_parts(folder: Path) -> list[records.Part] | None:
    """Returns the files of a complete version in a known format, or None."""
    errors = (UserError, OSError, ValueError, TypeError, KeyError)
    with contextlib.suppress(*errors):
        if (manifest := generations.read_record(folder)) is not None:
            where = folder / tfds_files.FOLDER
            # The manifest is written last.
            finished = (folder / generations.RECORD).stat().st_mtime_ns
            parts = []
            for (name, count), part in zip(
                _parts(folder, manifest), manifest["files"], strict=True
            ):
                unmodified = (where / name).stat().st_mtime_ns <= finished
                parts.append(
                    records.Part(
                        str(where / name), count, part["checksum"], unmodified
                    )
                )
            return parts
    return None


def read(
    folder: Path, hold: generations.Hold, manifest: dict[str, Any]
) -> Prepared:
    """Reads a version and checks that it is undamaged.

    Raises:
      Exception: an OSError, ValueError, TypeError or KeyError if it is damaged.
    """
    skipped = tuple(tasks.Fault(*fault) for fault in manifest["skipped"])
    parts = _parts(folder, manifest)
    rows = kept.read(folder)
    total = sum(count for _, count in parts) - manifest["superseded"]
    if len(rows) - len(skipped) != total:
        raise ValueError("The number of samples differs.")
    for name, size in manifest["training"].items():
        if (folder / TRAINING / name).stat().st_size != size:
            raise ValueError(f"{name} has the wrong size.")
    images = strings.Strings(folder / IMAGES)
    if len(images) != len(arrays.read(folder / identity.NOTES, mapped=True)):
        raise ValueError("The number of images differs.")
    columns = samples.read(folder / TRAINING)
    places = arrays.read(folder / TRAINING / PLACES, mapped=True)
    if len(columns) != len(places):
        raise ValueError("The number of training samples differs.")
    return Prepared(folder, hold, manifest, parts, rows, skipped)


def _parts(folder: Path, manifest: dict[str, Any]) -> list[tuple[str, int]]:
    """Checks the sizes of all files; returns their names and record counts."""
    where = folder / tfds_files.FOLDER
    if not manifest["superseded"]:
        for name, key in _TFDS_KEYS.items():
            json.loads((where / name).read_text())[key]
    for part in manifest["files"]:
        size = (where / part["name"]).stat().st_size
        if size != part["bytes"]:
            raise ValueError(f"{part['name']} has {size} bytes.")
    return [(part["name"], part["records"]) for part in manifest["files"]]
