"""Records of samples in array_record files, as TFDS reads and writes them."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from array_record.python import array_record_data_source, array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from mixer_jax.runtime import paths

# One record per chunk, so that a single record can be read alone. Images are
# compressed already.
_OPTIONS = "group_size:1,uncompressed"


class Part(NamedTuple):
    """A file of records, described as array_record expects it.

    Attributes:
      filename: the path.
      examples_in_shard: the number of records.
      checksum: the checksum of the file, if known.
      unmodified: whether the file has not been modified since the checksum was
        recorded, according to its size and time.
    """

    filename: str
    examples_in_shard: int
    checksum: str = ""
    unmodified: bool = False

    @property
    def skip(self) -> int:
        """The number of records before the first one to read."""
        return 0

    @property
    def take(self) -> int:
        """The number of records to read."""
        return self.examples_in_shard


def encode(cells: Mapping[str, str], image: bytes) -> bytes:
    """Returns the record of a sample; equal samples have equal records."""
    example = tf_example_pb2.Example()
    values = example.features.feature
    for name, text in cells.items():
        values[name].bytes_list.value.append(text.encode())
    values["image"].bytes_list.value.append(image)
    return example.SerializeToString(deterministic=True)


def decode(record: bytes, *fields: str) -> list[bytes]:
    """Returns fields of a record.

    Raises:
      Exception: of many types, if the record is damaged.
    """
    values = tf_example_pb2.Example.FromString(record).features.feature
    return [values[field].bytes_list.value[0] for field in fields]


def write(path: Path, records: Iterator[bytes]) -> int:
    """Writes a file of records and returns their number.

    Raises:
      OSError: if the file cannot be written.
    """
    count = 0
    with _system_errors(path):
        writer = array_record_module.ArrayRecordWriter(str(path), _OPTIONS)
    try:
        for record in records:
            with _system_errors(path):
                writer.write(record)
            count += 1
    finally:
        with _system_errors(path):
            writer.close()
    with _system_errors(path):
        reader = array_record_module.ArrayRecordReader(str(path))
        found = reader.num_records()
        reader.close()
    if found != count:
        raise OSError(f"{path} has {found} records instead of {count}")
    return count


@contextlib.contextmanager
def _system_errors(path: Path) -> Iterator[None]:
    """Raises array_record's errors, as for a full disk, as OSErrors."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise OSError(f"{path} cannot be written ({error})") from error


def source(parts: Sequence[Part]) -> Sequence[bytes]:
    """Returns the records of several files as one sequence, opened lazily."""
    folders = {os.path.dirname(part.filename) for part in parts}
    plain = {name: paths.plain(Path(name)) for name in folders}
    return array_record_data_source.ArrayRecordDataSource(
        [
            part._replace(
                filename=str(
                    plain[os.path.dirname(part.filename)]
                    / os.path.basename(part.filename)
                )
            )
            for part in parts
        ]
    )
