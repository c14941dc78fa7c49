"""Append-only files of whole records: JSON lines and TensorBoard events."""

import contextlib
import os
import pathlib
import socket
import time

import tensorboardX.summary
from tensorboardX import record_writer
from tensorboardX.proto import event_pb2

from mixer_jax.runtime import command, files, results
from mixer_jax.runtime.errors import UserError


class Appended:
    """An append-only file; each record is written completely or not at all.

    Nothing is buffered, so an error always concerns the record being written.
    """

    def __init__(self, path: pathlib.Path):
        """Opens the file; creates it if it is missing."""
        self._path = path
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115

    def write(self, record: bytes) -> None:
        """Appends a record.

        Raises:
          UserError: if there is no space left for it.
        """
        end = os.fstat(self._file.fileno()).st_size
        try:
            rest = memoryview(record)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(end)
            if error.errno in command.NO_ROOM:
                full = results.unwritable("The log", self._path, error)
                raise UserError(
                    f"{full} Free some space, then run the same command again."
                ) from error
            error.filename = str(self._path)
            raise

    def sync(self) -> None:
        """Waits until all records are on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class Events:
    """A new TensorBoard file of scalars."""

    def __init__(self, folder: pathlib.Path, purge_step: int):
        """Creates the file.

        Args:
          folder: the folder of TensorBoard files; created if it is missing.
          purge_step: from this step on, events in older files are ignored.
        """
        files.make_folder(folder)
        stamp = f"{int(time.time()):010d}.{socket.gethostname()}"
        self._file = Appended(folder / f"events.out.tfevents.{stamp}")
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(file_version="brain.Event:2")
        self._write(step=purge_step, session_log=start)

    def add(self, name: str, value: float, step: int) -> None:
        """Appends a scalar; see `Appended.write`."""
        summary = tensorboardX.summary.scalar(name, value)
        self._write(step=step, summary=summary)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, **fields: object) -> None:
        event = event_pb2.Event(wall_time=time.time(), **fields)
        self._file.write(_framed(event.SerializeToString()))


def _framed(data: bytes) -> bytes:
    """Returns a record in TFRecord format: length and data, with CRCs."""
    length = len(data).to_bytes(8, "little")
    parts = (length, _checksum(length), data, _checksum(data))
    return b"".join(parts)


def _checksum(data: bytes) -> bytes:
    return record_writer.masked_crc32c(data).to_bytes(4, "little")
