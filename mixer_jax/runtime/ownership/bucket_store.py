"""Stores the record of a folder's owner in a bucket.

The record is replaced only if it has not changed since it was read.
"""

import contextlib
import secrets

import tensorstore

from mixer_jax.runtime import paths
from mixer_jax.runtime.ownership import owner_record
from mixer_jax.runtime.ownership.owner_record import Record
from mixer_jax.runtime.ownership.owner_store import PREFIX, RECORD, Seen


class Bucket:
    """Stores the record in a bucket with conditional writes."""

    reason = staticmethod(paths.reason)

    def __init__(self, folder: paths.Path, part: str = ""):
        self.folder = folder
        self.failures = paths.failures()
        self._name = RECORD.format(part)
        self._store = tensorstore.KvStore.open(paths.kvstore(folder)).result()
        self._version: bytes | None = None  # last version this owner wrote
        self._no_record: bytes | None = None  # version of a missing record

    def lock(self) -> bool:
        """Returns False, because buckets have no locks."""
        return False

    def read(self) -> Seen:
        """Reads the stored record."""
        found = self._store.read(self._name).result()
        if found.state != "value":
            self._no_record = found.stamp.generation
            return Seen(None, None, lambda: 0.0)
        text = found.value.decode(errors="replace")
        return Seen(owner_record.parse(text), found.stamp.generation, self._age)

    def write(self, record: Record, version: bytes | None) -> bool:
        """Writes the record if `version` is current; returns whether it did."""
        stamp = self._store.write(
            self._name,
            owner_record.to_json(record).encode(),
            if_equal=version or self._no_record,
        ).result()
        if stamp.generation:
            self._version = stamp.generation
            return True
        # If a reply was lost and the write retried, the stored record is ours.
        current = self.read()
        if not current.is_of(record):
            return False
        self._version = current.version
        return True

    def beat(self, record: Record) -> bool:
        """Writes the record again; returns False if it has been replaced."""
        return self.write(record, self._version)

    def close(self, record: Record) -> None:
        """Removes the record if it belongs to this owner."""
        if self._version is None:
            return
        del record
        with contextlib.suppress(*self.failures):
            self._store.write(self._name, None, if_equal=self._version).result()

    def _age(self) -> float:
        """Returns the seconds since the record was written."""
        probe = self.folder / f"{PREFIX}-{secrets.token_hex(8)}"
        probe.write_bytes(b"")
        try:
            now = probe.stat().mtime
            return now - (self.folder / self._name).stat().mtime
        finally:
            probe.unlink()
