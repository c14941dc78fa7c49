"""The content of a shard: records of images that can be decoded."""

import contextlib
import os
from collections.abc import Iterator

import numpy as np

from mixer_jax.data.images import crops, decoding
from mixer_jax.data.images.faults import UnreadableImageError
from mixer_jax.data.prepared import records, tasks
from mixer_jax.runtime import identity
from mixer_jax.runtime.tabular import references

OPTION = "data.max_pixels"  # for messages
_STOP_CHECK_ROWS = 64  # rows between checks for `tasks.stop`
_NONE = bytes(16)  # in place of a digest


class Content:
    """The records of a shard, with their images' digests, boxes and faults."""

    def __init__(self, task: tasks.Task):
        self.faults: list[tasks.Fault] = []
        self._task, self._root = task, os.fspath(task.root)
        self._boxes: list[str] = []
        self._digests: list[bytes] = []  # of the rows' image files
        self._of_records: list[bytes] = []  # of the records' images
        self._left_out: list[int] = []
        earlier = task.earlier
        self._known = records.source(earlier.parts) if earlier else ()

    def records(self) -> Iterator[bytes]:
        """Yields the records; notes digests, boxes and faults."""
        task = self._task
        status = zip(*task.status.tolist(), strict=True)
        texts = zip(*task.texts.values(), strict=True)
        rows = zip(task.images, status, texts, strict=True)
        for place, (name, expected, cells) in enumerate(rows):
            if place % _STOP_CHECK_ROWS == 0:
                tasks.check_stop(task.results)
            record = self._copy(place, name)
            if record is not None:
                yield record
                continue
            image = self._read(place, name, expected)
            if image is not None:
                cells = dict(zip(task.texts, cells, strict=True))
                cells["box"] = self._boxes[-1]
                yield records.encode(cells, image)

    def checksum(self) -> str:
        """Returns the checksum of the records; see `records.checksum`."""
        left_out = set(self._left_out)
        cells = {
            name: [x for i, x in enumerate(column) if i not in left_out]
            if left_out
            else column
            for name, column in self._task.texts.items()
        }
        cells["box"] = self._boxes
        return records.checksum(cells, b"".join(self._of_records))

    def digests(self) -> np.ndarray:
        """Returns the digests of the image files; see `Result`."""
        joined = b"".join(self._digests)
        return np.frombuffer(joined, np.uint8).reshape(-1, len(_NONE))

    def _copy(self, place: int, name: str) -> bytes | None:
        """Returns the record of an earlier version, if it is undamaged."""
        earlier = self._task.earlier
        if not earlier or earlier.records[place] < 0:
            return None
        # array_record raises many types of errors for damaged files.
        with contextlib.suppress(Exception):
            record = self._known[int(earlier.records[place])]
            self._note(name, earlier.digests[place].tobytes())
            return record
        return None

    def _read(
        self, place: int, name: str, expected: tuple[int, int]
    ) -> bytes | None:
        """Returns the bytes of a row's image; None if it is left out."""
        task, content = self._task, None
        if not name:
            self._note("", _NONE)
            return b""
        path = os.path.join(self._root, name)
        try:
            content = _read(path, expected)
            decoding.check(content, task.max_pixels, option=OPTION)
        except UnreadableImageError as error:
            row = int(task.shard.rows[place])
            reason = _reason(error, path)
            self.faults.append(tasks.Fault(row, error.kind, reason, name))
            self._left_out.append(place)
            digest = _NONE if content is None else _digest(name, content)
            self._digests.append(digest)
            return None
        self._note(name, _digest(name, content))
        return crops.detach(content)[0]

    def _note(self, name: str, digest: bytes) -> None:
        """Notes the box and the digests of a record's image."""
        self._digests.append(digest)
        self._boxes.append(references.split(name)[1])
        if digest == _NONE:  # An image in a Parquet file, or no image.
            digest = _content_digest(name)
        self._of_records.append(digest)


def _read(path: str, expected: tuple[int, int]) -> bytes:
    """Returns the bytes of an image after checking that it is unchanged.

    A file must have the given size and time. An image in a Parquet file is
    compared with its digest when it is read.

    Args:
      path: the path of the image.
      expected: the expected size in bytes and time in nanoseconds; -1 if the
        file is missing.

    Raises:
      UnreadableImageError: if the file cannot be read.
      PassingError: if it was changed, removed or created since its size and
        time were looked up, e.g. if a file system is briefly unavailable.
    """
    try:
        content, status = decoding.read_with_status(path)
    except UnreadableImageError:
        file = references.file_of(path)
        if not references.parse(path) and identity.stat_one(file) != expected:
            raise identity.changed_error(file) from None
        raise
    if status is not None and status != expected:
        raise identity.changed_error(references.file_of(path))
    return content


def _digest(name: str, content: bytes) -> bytes:
    """Returns the digest of an image file; zeros if the name has a digest."""
    if references.parse(name):
        return _NONE
    return references.digest(crops.detach(content)[0])


def _content_digest(name: str) -> bytes:
    """Returns the digest of an image that is not a file."""
    reference = references.parse(name) if name else None
    if reference is None:
        return references.digest(b"")
    return references.decode(reference.digest)


def _reason(error: UnreadableImageError, path: str) -> str:
    """Returns an error message without the image's name."""
    message = str(error)
    for start in (references.label(path), "an image"):
        message = message.removeprefix(start)
    return message
