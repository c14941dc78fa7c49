"""Records of samples in array_record files, as TFDS reads and writes them."""

import contextlib
import functools
import hashlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from array_record.python import array_record_module

from mixer_jax.data.prepared import write_behind
from mixer_jax.data.tables import rules
from mixer_jax.runtime import identity, paths
from mixer_jax.runtime.tabular import references

# One record per chunk, so that a single record can be read alone. Images are
# compressed already.
_OPTIONS = "group_size:1,uncompressed"
TEXTS = tuple(name for name in rules.COLUMNS if name != "image")
FIELDS = (*TEXTS, "box")  # all but the image
_importing = threading.Lock()
_ERRORS = (RuntimeError, ValueError)  # raised by array_record; e.g. disk full


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
    """Returns the record of a sample; equal samples have equal records.

    The record is a `tf.train.Example` with one string per field. It is encoded
    here because protobuf would copy the image twice.
    """
    values = {name: text.encode() for name, text in cells.items()}
    values["image"] = image
    pieces, size = [b""], 0
    for name in sorted(values):
        value = values[name]
        head = _head(name, len(value))
        pieces += head, value
        size += len(head) + len(value)
    pieces[0] = b"\n" + _varint(size)
    return b"".join(pieces)


def decode(record: bytes, *fields: str) -> list[bytes]:
    """Returns fields of a record.

    Raises:
      Exception: of many types, if the record is damaged.
    """
    values = _example().FromString(record).features.feature
    return [values[field].bytes_list.value[0] for field in fields]


def _example() -> type:
    """Returns the protobuf message class of the records."""
    # TFDS imports its modules lazily, which can deadlock if several threads
    # import it at the same time.
    with _importing:
        return _import_example()


@functools.cache
def _import_example() -> type:
    # Importing TFDS takes longer than writing a thousand small images.
    from tensorflow_datasets.proto import tf_example_pb2

    return tf_example_pb2.Example


@functools.lru_cache(1 << 14)
def _head(name: str, size: int) -> bytes:
    """Returns the bytes in front of a field's value of a given size."""
    # In protobuf's encoding, b"\n" and b"\x12" start a message's first and
    # second field. The value is nested in a list, a feature and a map's entry.
    head = b"\n" + _varint(size)
    for key in (b"\n", b"\x12"):
        head = key + _varint(len(head) + size) + head
    encoded = name.encode()
    head = b"\n" + _varint(len(encoded)) + encoded + head
    return b"\n" + _varint(len(head) + size) + head


def _varint(number: int) -> bytes:
    """Returns a number in protobuf's variable-length encoding."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def checksum(cells: Mapping[str, Sequence[str]], digests: bytes) -> str:
    """Returns a hexadecimal checksum of the records of a file.

    It is computed from the digests of the images, so that a newly written file
    need not be read again.

    Args:
      cells: for each field but the image, the cells of all records.
      digests: the digests of their images, joined.
    """
    names = sorted(cells)
    texts = identity.hash_texts(names, *(cells[name] for name in names))
    return hashlib.sha256(texts.encode() + digests).hexdigest()


def read_checksum(path: Path, count: int) -> str:
    """Reads a file's records and returns their checksum.

    Raises:
      Exception: of many types, if the file is damaged.
    """
    cells: dict[str, list[str]] = {name: [] for name in FIELDS}
    digests = []
    for record in source([Part(str(path), count)]):
        *texts, image = decode(record, *FIELDS, "image")
        for column, text in zip(cells.values(), texts, strict=True):
            column.append(text.decode())
        digests.append(references.digest(image))
    return checksum(cells, b"".join(digests))


def write(path: Path, records: Iterator[bytes]) -> int:
    """Writes a file of records and returns their number.

    Raises:
      OSError: if the file cannot be written.
    """
    count = 0
    with _system_errors(path):
        writer = array_record_module.ArrayRecordWriter(str(path), _OPTIONS)
    try:
        with write_behind.write_behind(path) as wrote:
            for record in records:
                try:
                    writer.write(record)
                except _ERRORS as error:
                    raise _unwritable(path, error) from error
                wrote(len(record))
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
    """Turns array_record's errors into OSErrors."""
    try:
        yield
    except _ERRORS as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: Exception) -> OSError:
    return OSError(f"{path} cannot be written ({error})")


def source(parts: Sequence[Part]) -> Sequence[bytes]:
    """Returns the records of several files as one sequence, opened lazily."""
    from array_record.python import array_record_data_source

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
