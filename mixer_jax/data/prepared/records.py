"""Records of samples in array_record files, as TFDS reads and writes them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from array_record.python import array_record_data_source, array_record_module
from tensorflow_datasets.proto import tf_example_pb2

# One record per chunk, so that a single record can be read alone.
_OPTIONS = "group_size:1"


class Part(NamedTuple):
    """A file of records, as `array_record` wants it described.

    Attributes:
      filename: the path.
      examples_in_shard: the number of records.
    """

    filename: str
    examples_in_shard: int

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
    try:
        writer = array_record_module.ArrayRecordWriter(str(path), _OPTIONS)
        try:
            for record in records:
                writer.write(record)
                count += 1
        finally:
            writer.close()
        reader = array_record_module.ArrayRecordReader(str(path))
        found = reader.num_records()
        reader.close()
    except (RuntimeError, ValueError) as error:
        # array_record raises these for a full disk, too.
        raise OSError(f"{path} cannot be written ({error})") from error
    if found != count:
        raise OSError(f"{path} has {found} records instead of {count}")
    return count


def source(parts: Sequence[Part]) -> Sequence[bytes]:
    """Returns the records of several files as one sequence, opened lazily."""
    return array_record_data_source.ArrayRecordDataSource(parts)
