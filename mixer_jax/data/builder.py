"""TensorFlow Datasets builder that writes sample tables as array_record files.

A few files with random access replace thousands of small image files. Reading
array_record files does not need TensorFlow.
"""

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from mixer_jax.data import generations
from mixer_jax.data.stream.pipeline import FileSource
from mixer_jax.data.tables import table
from mixer_jax.runtime import identity, paths, progress, terminal
from mixer_jax.runtime.errors import PassingError, UserError

FOLDER = "prepared"  # next to the table, unless the config says otherwise


class _Info(tfds.core.DatasetInfo):
    """Dataset info that is not looked up in TFDS's public bucket."""

    def initialize_from_bucket(self) -> None:
        """Does nothing; the base method would leave an empty folder in /tmp."""


class SampleTable(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builder that writes a table's rows in order, one TFDS split per split.

    All parts of a split go into one TFDS split. Images stay encoded.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, frame: pd.DataFrame, root: os.PathLike, **kwargs):
        """Initializes the builder.

        Args:
          frame: the rows to write.
          root: the folder that the image paths are relative to.
          **kwargs: passed to the TFDS builder; `data_dir` is required.
        """
        self._frame = frame
        self._root = root
        kwargs["data_dir"] = paths.plain(Path(kwargs["data_dir"]))
        self.digests: dict[str, np.ndarray] = {}  # image path -> digest
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
        del dl_manager  # Nothing is downloaded.
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
            content = source[row][0]
            if content:
                digest = identity.digest(content)
                self.digests[self._frame["image"].iat[row]] = digest
            yield key, sample | {"image": content}


class PreparedSource:
    """The prepared samples of a frame, read from array_record files.

    Attributes:
      content: hash of the rows and of the images' bytes.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        folder: os.PathLike,
        hold: generations.Hold | None = None,
        content: str = "",
    ):
        """Maps `frame`'s rows to the records of each split, in order.

        Args:
          frame: the rows that were written.
          folder: the folder that TFDS wrote to.
          hold: keeps the folder from being removed.
          content: hash of the rows and of the images' bytes.
        """
        # `paths.plain` is valid in this process only, so keep the real path.
        self._folder = Path(os.path.realpath(folder))
        self._hold, self.content = hold, content
        self._codes, self._names = pd.factorize(_split_names(frame), sort=True)
        self._records = np.zeros(len(frame), np.int64)
        for code in range(len(self._names)):
            rows = self._codes == code
            self._records[rows] = np.arange(rows.sum())
        self._open()

    def _open(self) -> None:
        # Skip TFDS's decoding: it costs as much as decoding a small image.
        folder = paths.plain(self._folder)
        splits = tfds.builder_from_directory(folder).as_data_source(
            deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
        self._splits = [splits[name] for name in self._names]

    def check(self) -> None:
        """Reads the last sample of every file, and thereby the file's index.

        Raises:
          Exception: if a file is missing, truncated, or holds other samples.
        """
        folder = paths.plain(self._folder)
        infos = tfds.builder_from_directory(folder).info.splits
        for code, name in enumerate(self._names):
            rows = np.flatnonzero(self._codes == code)
            ends = np.cumsum(infos[name].shard_lengths)
            if ends[-1] != len(rows):
                raise ValueError("The number of samples differs.")
            for row in rows[ends - 1]:
                self.name(row)

    def __getstate__(self) -> dict:
        # Unpickling reopens the files; the lock stays with this process.
        own = ("_splits", "_hold")
        return {k: v for k, v in self.__dict__.items() if k not in own}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._open()

    def _read(self, row: int, *fields: str) -> list[bytes]:
        split = self._splits[self._codes[row]]
        try:
            record = tf_example_pb2.Example.FromString(
                split[int(self._records[row])]
            )
            values = record.features.feature
            return [values[field].bytes_list.value[0] for field in fields]
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
        return len(self._records)

    def __getitem__(self, row: int) -> tuple[bytes, str]:
        """Returns a row's encoded image (b"" if it has none) and text."""
        image, text = self._read(row, "image", "text")
        return image, text.decode()

    def name(self, row: int) -> str:
        """Returns the name of a row's image for error messages."""
        (sample_id,) = self._read(row, "sample_id")
        return f"sample {sample_id.decode()}"


def prepare(
    frame: pd.DataFrame,
    root: str | os.PathLike,
    prepared: str | os.PathLike = "",
    *,
    data: identity.Data | None = None,
    say: Callable[[str], None] | None = None,
) -> PreparedSource:
    """Writes a frame's samples as array_record files, unless they exist.

    Each combination of table and splits has a folder in `prepared`, with a
    subfolder per version, named by the identity of the rows and images. A new
    version is created atomically and replaces older ones that are not in use.

    Args:
      frame: rows of a sample table.
      root: the folder that the image paths are relative to.
      prepared: the folder for the files; `root/prepared` if empty.
      data: the identity of the rows; computed if None.
      say: called with a message about changed images; prints to standard error
        by default.

    Returns:
      The samples of `frame`'s rows, for `pipeline.train_batches`.

    Raises:
      UserError: if an image is missing, the folder cannot be written, or it
        has these rows and images in a newer format.
    """
    root = Path(root)
    data = (data or identity.examine(frame, root)).require()
    place = Path(prepared) if prepared else root / FOLDER
    group = place / _group(frame, root if prepared else "")
    say = say or _say
    try:
        found = _find(frame, root, place, group, data, say)
        while found is None:
            paths.make_folder(group)
            _make(frame, root, group, data)
            # Do not report changed images twice.
            found = _find(frame, root, place, group, data, lambda text: None)
    except OSError as error:
        raise UserError(
            f"The prepared data cannot be written to {place}: "
            f"{paths.reason(error)}. Free some space, or set the config's "
            "data.prepared to a folder with enough space."
        ) from error
    folder, source = found
    if folder.parent == group:
        generations.remove_others(folder)
    return source


def _find(
    frame: pd.DataFrame,
    root: Path,
    place: Path,
    group: Path,
    data: identity.Data,
    say: Callable[[str], None],
) -> tuple[Path, PreparedSource] | None:
    """Returns the folder prepared for a frame and its source, or None.

    The folder may belong to a table that has since been moved or renamed.
    """
    groups = sorted(place.iterdir()) if place.is_dir() else []
    for other in sorted(groups, key=lambda other: other != group):
        names = sorted(os.listdir(other)) if other.is_dir() else []
        for name in names:
            if not name.startswith(f"{data.key}-"):
                continue
            folder = other / name
            hold = generations.hold(folder)
            if hold is None:
                continue
            recorded = generations.has_record(folder)
            notes, changed, known = identity.compare(folder, data)
            if known and not changed:
                content = data.content(notes)
                source = _open_whole(frame, root, folder, hold, content)
                if recorded and source is not None:
                    with contextlib.suppress(OSError):  # Possibly read-only.
                        identity.write_notes(folder, notes)
                    return folder, source
                say(
                    f"{folder} has missing or damaged files; preparing the "
                    "data again."
                )
            if changed:
                say(_changed(changed))
            hold.release()
    return None


def _open_whole(
    frame: pd.DataFrame,
    root: Path,
    folder: Path,
    hold: generations.Hold | None = None,
    content: str = "",
) -> PreparedSource | None:
    """Returns a folder's samples; None if its files are missing or damaged."""
    try:
        path = SampleTable(frame, root, data_dir=folder).data_path
        source = PreparedSource(frame, path, hold, content)
        source.check()
    except Exception:
        # TFDS, array_record and protobuf raise many types of errors.
        return None
    return source


def _changed(images: Sequence[str]) -> str:
    count = len(images)
    subject = "1 image has" if count == 1 else f"{count:,} images have"
    return (
        f"{subject} changed since the data was prepared, such as {images[0]}; "
        "preparing the data again."
    )


def _make(
    frame: pd.DataFrame, root: Path, group: Path, data: identity.Data
) -> None:
    """Writes the samples into a new folder of the group."""
    stamp = hashlib.sha256(data.times.tobytes()).hexdigest()[:8]
    folder = group / f"{data.key}-{stamp}"
    with generations.draft(group) as draft:
        partial = draft / folder.name
        digests = _write(frame, root, partial)
        _check_unchanged(data)
        found = np.array([digests[name] for name in data.images], np.uint8)
        notes = identity.make_notes(data, found.reshape(len(data.images), -1))
        identity.write_notes(partial, notes)
        generations.write_record(partial)
        if _open_whole(frame, root, partial) is None:
            raise UserError(
                f"The prepared data in {group} cannot be read right after it "
                "was written. Check the disk, or set the config's "
                "data.prepared to a folder on another disk."
            )
        try:
            partial.rename(folder)
        except OSError:
            # Another process was faster, or the existing folder is stale.
            if not folder.is_dir():
                raise
            recorded = generations.has_record(folder)
            _, changed, known = identity.compare(folder, data)
            whole = recorded and _open_whole(frame, root, folder) is not None
            if changed or not known or not whole:
                partial.rename(f"{folder}-{secrets.token_hex(4)}")


def _check_unchanged(data: identity.Data) -> None:
    """Checks that no image has changed since its size was looked up."""
    now = identity.stat(data.files)
    changed = np.flatnonzero((now != [data.sizes, data.times]).any(axis=0))
    if len(changed):
        raise PassingError(
            f"The image {data.files[changed[0]]} was changed while the data "
            "was being prepared. Run this command again once no other "
            "program modifies the images."
        )


def _group(frame: pd.DataFrame, root: str | os.PathLike) -> str:
    """Returns the folder name for a table and its splits.

    Args:
      frame: the rows; `attrs["table"]` is the table's path.
      root: the table's root; "" if the named folder is next to the table.
    """
    name = Path(frame.attrs.get("table", "") or "table").name
    splits = "-".join(sorted(set(_split_names(frame))))
    whole = [name, splits, root and os.path.abspath(root)]
    code = identity.hash_json(whole)[:8]
    return f"{re.sub(r'[^A-Za-z0-9._-]', '_', f'{name}-{splits}')[:80]}-{code}"


def _say(text: str) -> None:
    terminal.say(text, console=terminal.Console(stderr=True))


def _write(
    frame: pd.DataFrame, root: Path, folder: Path
) -> dict[str, np.ndarray]:
    """Writes the array_record files; returns each image's digest by path."""
    config = tfds.download.DownloadConfig(
        try_download_gcs=False,
        compute_stats=tfds.download.ComputeStatsMode.SKIP,
    )
    folder.mkdir()
    builder = SampleTable(frame, root, data_dir=folder)
    tfds.disable_progress_bar()
    # Hide TFDS's false report of a download; progress is still shown.
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        builder.download_and_prepare(
            download_dir=folder / "downloads", download_config=config
        )
    return builder.digests


def _split_names(frame: pd.DataFrame) -> np.ndarray:
    """Returns the split of each row without its part, `[N]` of str."""
    names = frame["split"].str.split("/", n=1).str[0]
    return names.to_numpy(object)
