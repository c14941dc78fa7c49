"""Sample table -> array_record files, by a TensorFlow Datasets builder.

One file that is read at random positions replaces thousands of small image
files. TensorFlow itself is not needed: array_record is read without it.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from mixer_jax import paths
from mixer_jax.data import near_paths, table
from mixer_jax.data.pipeline import FileSource
from mixer_jax.errors import UserError
from mixer_jax.runtime import progress

FOLDER = "prepared"  # next to the table, unless the config says otherwise


class _Info(tfds.core.DatasetInfo):
    """Asks no bucket for what is known of a table: nobody else has it."""

    def initialize_from_bucket(self) -> None:
        """Does nothing; the original also leaves an empty folder in /tmp."""


class SampleTable(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes a table's rows, in order, one TFDS split for each split.

    The parts of a split share its TFDS split; images stay encoded.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, frame: pd.DataFrame, root: os.PathLike, **kwargs):
        """Takes the rows to write and the folder of their images."""
        self._frame = frame
        self._root = root
        kwargs["data_dir"] = paths.plain(Path(kwargs["data_dir"]))
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {name: tfds.features.Text() for name in table.COLUMNS}
        features["image"] = tfds.features.Image()
        return _Info(
            builder=self,
            description="The rows of a sample table.",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterable]:
        del dl_manager  # Everything is here already.
        names = _split_names(self._frame)
        return {
            name: self._generate_examples(np.flatnonzero(names == name))
            for name in sorted(set(names))
        }

    def _generate_examples(self, rows: np.ndarray) -> Iterator:
        source = FileSource(self._frame, self._root)
        columns = {
            name: self._frame[name].tolist()
            for name in table.COLUMNS
            if name != "image"
        }
        rows = progress.track(rows, "Preparing the images")
        for key, row in enumerate(rows):
            sample = {name: cells[row] for name, cells in columns.items()}
            yield key, sample | {"image": source[row][0]}


class PreparedSource:
    """A frame's content, read from its array_record files."""

    def __init__(self, frame: pd.DataFrame, folder: os.PathLike):
        """Maps `frame`'s rows to the records of each split, in order.

        Args:
          frame: the rows that were written.
          folder: what TFDS has written.
        """
        # Whatever it is called, in another process too; see `paths.plain`.
        self._folder = Path(os.path.realpath(folder))
        self._codes, self._names = pd.factorize(_split_names(frame), sort=True)
        self._records = np.zeros(len(frame), np.int64)
        for code in range(len(self._names)):
            rows = self._codes == code
            self._records[rows] = np.arange(rows.sum())
        self._open()

    def _open(self) -> None:
        # TFDS would take as long for a record as a small image takes.
        folder = paths.plain(self._folder)
        splits = tfds.builder_from_directory(folder).as_data_source(
            deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
        self._splits = [splits[name] for name in self._names]

    def __getstate__(self) -> dict:
        # Another process opens the files for itself.
        return {k: v for k, v in self.__dict__.items() if k != "_splits"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._open()

    def _read(self, row: int, *fields: str) -> list[bytes]:
        split = self._splits[self._codes[row]]
        record = tf_example_pb2.Example.FromString(
            split[int(self._records[row])]
        )
        values = record.features.feature
        return [values[field].bytes_list.value[0] for field in fields]

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self._records)

    def __getitem__(self, row: int) -> tuple[bytes, str]:
        """Returns row `row`'s encoded image, b"" if none, and its text."""
        image, text = self._read(row, "image", "text")
        return image, text.decode()

    def name(self, row: int) -> str:
        """Returns the ID of row `row`'s sample."""
        (sample_id,) = self._read(row, "sample_id")
        return f"sample {sample_id.decode()}"


def prepare(
    frame: pd.DataFrame,
    root: str | os.PathLike,
    prepared: str | os.PathLike = "",
) -> PreparedSource:
    """Writes a frame's content as array_record files, unless they exist.

    They lie in a folder named by a hash of the rows and of every image file's
    size and time of change, which appears whole or not at all.

    Args:
      frame: rows of a sample table.
      root: the folder that the image paths are relative to.
      prepared: the folder for the files; default `root/prepared`.

    Returns:
      The content of `frame`'s rows, for `pipeline.train_batches`.

    Raises:
      UserError: if an image is missing or the folder cannot be written.
    """
    root = Path(root)
    prepared = Path(prepared) if prepared else root / FOLDER
    folder = prepared / content_key(frame, root)
    if not folder.is_dir():
        try:
            prepared.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(
                prefix=".partial-", dir=prepared, ignore_cleanup_errors=True
            ) as partial:
                partial = Path(partial) / folder.name
                _write(frame, root, partial)
                try:
                    partial.rename(folder)
                except OSError:
                    # Another process was faster with the same content?
                    if not folder.is_dir():
                        raise
        except OSError as error:
            raise UserError(
                f"The prepared data cannot be written to {prepared}: {error}. "
                "Make room, or set the config's data.prepared to a folder "
                "with room."
            ) from error
    builder = SampleTable(frame, root, data_dir=folder)
    return PreparedSource(frame, builder.data_path)


def content_key(frame: pd.DataFrame, root: str | os.PathLike) -> str:
    """Returns a hash of the rows, and of their files' sizes and times.

    Raises:
      UserError: if an image file is missing.
    """
    digest = hashlib.sha256()
    for name in table.COLUMNS:
        cells = frame[name].tolist()
        digest.update("\0".join([name, *cells, ""]).encode())
    for path in frame["image"].unique():
        if path:
            digest.update(_stamp(Path(root) / path))
    return digest.hexdigest()[:16]


def _stamp(path: Path) -> bytes:
    try:
        status = path.stat()
    except OSError as error:
        hint = near_paths.hint(path)
        raise UserError(f"The image {path}: {error.strerror}.{hint}") from error
    return f"{status.st_size} {status.st_mtime_ns}\n".encode()


def _write(frame: pd.DataFrame, root: Path, folder: Path) -> None:
    config = tfds.download.DownloadConfig(
        try_download_gcs=False,
        compute_stats=tfds.download.ComputeStatsMode.SKIP,
    )
    folder.mkdir()
    builder = SampleTable(frame, root, data_dir=folder)
    tfds.disable_progress_bar()
    # It says that it downloads, which is not so; we show our own progress.
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        builder.download_and_prepare(
            download_dir=folder / "downloads", download_config=config
        )


def _split_names(frame: pd.DataFrame) -> np.ndarray:
    """Returns each row's split without its part, [N] of str."""
    names = frame["split"].str.split("/", n=1).str[0]
    return names.to_numpy(object)
