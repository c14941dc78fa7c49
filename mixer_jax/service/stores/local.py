"""A store in a folder: SQLite on disk, and exact search in device memory."""

import contextlib
import os
import pathlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from mixer_jax.retrieval import calibration as calibration_lib
from mixer_jax.retrieval import places
from mixer_jax.retrieval.calibration import Calibration
from mixer_jax.runtime.errors import UserError
from mixer_jax.service.stores import (
    changes,
    database,
    encoding,
    fields,
    generations,
    nearest,
    reading,
)
from mixer_jax.service.stores.interface import Bare, Hit, Item, Picture, Where


class LocalStore:
    """Items in a folder of this machine; implements `interface.Store`.

    Other processes may read and write the same folder. Each search sees all
    writes that were acknowledged before it began, by any process.

    Attributes:
      path: the file of the generation; see `generations`.
      name, folder: the folder, for messages and as a path.
      dim: D, the number of elements of an embedding.
      fingerprint: the fingerprint of the model of all embeddings, or "".
      storage: how embeddings are stored; see `encoding`.
      thumbnails: the side of thumbnails in pixels; 0 for none.
      properties: the stored properties of the index, read on opening.
    """

    def __init__(self, path: pathlib.Path, mesh: Mesh | None = None):
        """Opens a file of items; use `open` for an index's folder."""
        self.path, self.folder = path, path.parent
        self.name = str(self.folder)
        self._lock = generations.lock_users(path)
        try:
            self._database = database.Database(path)
        except BaseException:
            os.close(self._lock)
            raise
        self._is_draft = False
        try:
            self.properties = self._database.properties()
            self._read_properties()
        except BaseException:
            self.close()
            raise
        self._mesh = mesh
        self._nearest: nearest.Nearest | None = None  # until the first search

    def _read_properties(self) -> None:
        found = self.properties
        try:
            self.dim = int(found["dim"])
            self.storage = str(found["storage"])
            self.fingerprint = str(found["fingerprint"])
            self.thumbnails = int(found["thumbnails"])
            encoding.size(self.dim, self.storage)
            if found.get("calibration"):
                calibration_lib.loads(found["calibration"])
            for name in ("model", "images"):
                places.check(found.get(name, []))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"The index in {self.name} is damaged (a property is "
                f"missing or invalid: {error}); {database.REMEDY}."
            ) from error

    @classmethod
    def open(
        cls, folder: str | os.PathLike, mesh: Mesh | None = None
    ) -> "LocalStore":
        """Opens the current generation of a folder.

        Args:
          folder: the index's folder.
          mesh: the devices that hold the embeddings; by default all.

        Raises:
          UserError: if there is no index, or it is damaged or of a format that
            this version does not read.
        """
        while True:
            path = generations.read(folder)
            try:
                store = cls(path, mesh)
            except FileNotFoundError:
                # Another process may have switched to a new file.
                if generations.read(folder) == path:
                    raise UserError(
                        f"The index in {folder} is damaged ({path.name} is "
                        f"missing); {database.REMEDY}."
                    ) from None
                continue
            if generations.read(folder) == path:
                return store
            store.close()

    @classmethod
    def draft(
        cls, folder: str | os.PathLike, properties: Mapping[str, Any]
    ) -> "LocalStore":
        """Begins, or continues, a generation that no reader sees yet.

        Args:
          folder: the index's folder; this process owns it.
          properties: `dim`, `storage`, `fingerprint`, `thumbnails`, `fields`,
            and anything else that identifies the work.
        """
        store = cls(generations.begin(folder, dict(properties)))
        store._is_draft = True
        return store

    def prepare(self) -> None:
        """Writes the log of a draft back to its file."""
        self.flush()

    def publish(self, keep: int = 0) -> None:
        """Makes a draft the current generation of its folder.

        Args:
          keep: the maximum number of earlier generations to keep.
        """
        self.flush()
        generations.switch(self.path, keep)
        self._is_draft = False

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Keeps all processes from writing during a block."""
        with self._writing():
            yield

    @property
    def generation(self) -> str:
        """The name of the file."""
        return self.path.name

    @property
    def state(self) -> int:
        """A number that changes when any process writes."""
        return self._database.state

    @property
    def fields(self) -> Mapping[str, str]:
        """The kinds of the declared fields, by name."""
        with self._database.reading() as connection:
            return reading.fields(connection)

    def facts(self) -> dict[str, str]:
        """Returns the storage with its loss, and the size on disk."""
        with self._database.reading() as connection:
            loss = reading.loss(connection)
        own = self.folder.glob(f"{self.path.name}*")
        used = sum(path.stat().st_size for path in own)
        return {
            "stored as": ", ".join(filter(None, [self.storage, str(loss)])),
            "size": f"{used / 1e6:,.1f} MB in {self.path.name}",
        }

    @property
    def calibration(self) -> Calibration | None:
        """Maps cosines to probabilities; None for no calibration."""
        with self._database.reading() as connection:
            found = reading.stored_value(connection, "calibration", "")
        return calibration_lib.loads(found) if found else None

    def calibrate(self, found: Calibration) -> None:
        """Replaces the calibration."""
        with self._writing():
            self._database.set(calibration=found.dumps())

    def declare(self, kinds: Mapping[str, str]) -> None:
        """Adds fields.

        Raises:
          UserError: if one is invalid or exists with another kind.
        """
        with self._writing() as connection:
            known = fields.add(kinds, reading.fields(connection), self.name)
            self._database.set(fields=known)

    def upsert(
        self, items: Sequence[Item], kinds: Mapping[str, str] | None = None
    ) -> None:
        """Writes items, replacing those with the same IDs; all or none.

        A stored vector with the content of a new one stays as it is.

        Args:
          items: the items.
          kinds: the fields to declare if none are declared yet.

        Raises:
          UserError: if an item is invalid, or an embedding has another length
            or is not finite.
        """
        declared = self.fields
        new = {} if declared else fields.declare(kinds or {})
        checked = changes.check(items, declared or new, self.dim)
        with self._writing() as connection:
            if new:
                self.declare(new)
            loss = changes.upsert(connection, checked, self.storage)
            if loss.count:
                total = reading.loss(connection).plus(loss)
                self._database.set(loss=total)

    def delete(self, ids: Sequence[str]) -> int:
        """Removes items; returns how many existed."""
        with self._writing() as connection:
            return changes.delete(connection, ids)

    def get(self, ids: Sequence[str]) -> list[Item | None]:
        """Returns items, with None for those that do not exist."""
        with self._database.reading() as connection:
            found = reading.items(connection, ids, self._decode)
        return [found.get(one) for one in ids]

    def contents(self, ids: Sequence[str]) -> dict[str, set[bytes]]:
        """Returns the contents of the vectors of existing items."""
        with self._database.reading() as connection:
            return reading.contents(connection, ids)

    def search(
        self,
        queries: np.ndarray,
        k: int,
        *,
        where: Where | None = None,
        offset: int = 0,
        min_score: float | None = None,
        group_by: str | None = None,
        without: str | None = None,
    ) -> list[list[Hit]]:
        """Finds the nearest items; see `interface.Store`.

        Raises:
          UserError: if a query is invalid, or a field of `where` or `group_by`
            is unknown.
        """
        queries = encoding.check_queries(queries, self.dim)
        with self._database.reading() as connection:
            if self._nearest is None:
                self._nearest = nearest.Nearest(
                    self.dim, self.storage, self._mesh
                )
            self._nearest.refresh(connection, self._database.state)
            found = self._nearest.search(
                connection,
                queries,
                k + offset,
                where=where,
                group_by=group_by,
                without=without,
            )
            kept = [
                [
                    (number, cosine)
                    for number, cosine in one[offset:]
                    if min_score is None or cosine >= min_score
                ]
                for one in found
            ]
            return reading.hits(connection, kept)

    def count(self) -> int:
        """Returns the number of items."""
        return self._one("SELECT count(*) FROM items")

    def count_vectors(self) -> int:
        """Returns the number of vectors."""
        return self._one("SELECT count(*) FROM vectors")

    def images(self, limit: int = -1) -> list[str]:
        """Returns the paths of the first pictures without a thumbnail."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT image FROM vectors WHERE image != '' AND number NOT IN "
                "(SELECT number FROM pictures) LIMIT ?",
                [limit],
            )
            return [image for (image,) in rows]

    def without_thumbnail(self, size: int) -> Iterator[list[Bare]]:
        """Yields the vectors without a thumbnail, at most `size` at once."""
        last = 0
        while True:
            with self._database.reading() as connection:
                found = reading.without_thumbnail(connection, last, size)
            if not found:
                return
            yield found
            last = found[-1].number

    def picture(self, id: str, number: int) -> Picture | None:
        """Returns the picture of an item's vector; None if there is none."""
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT id, image, coalesce(thumbnail, x'') FROM vectors "
                "JOIN items USING (item) LEFT JOIN pictures USING (number) "
                "WHERE number = ?",
                [number],
            ).fetchone()
        return Picture(*row) if row is not None and row[0] == id else None

    def iterate(self, size: int) -> Iterator[list[Item]]:
        """Yields all items in the order of their IDs, at most `size` at once.

        Each list is read in one transaction, so other processes can write
        in between.
        """
        last = ""
        while True:
            with self._database.reading() as connection:
                ids = reading.ids_after(connection, last, size)
                found = reading.items(connection, ids, self._decode)
            if not ids:
                return
            yield [found[one] for one in ids]
            last = ids[-1]

    def ids(self, size: int) -> Iterator[list[str]]:
        """Yields all IDs in order, at most `size` at once."""
        last = ""
        while True:
            with self._database.reading() as connection:
                ids = reading.ids_after(connection, last, size)
            if not ids:
                return
            yield ids
            last = ids[-1]

    def existing(self, ids: Sequence[str]) -> set[str]:
        """Returns the subset of IDs that exist."""
        with self._database.reading() as connection:
            return reading.existing(connection, ids)

    def flush(self) -> None:
        """Writes SQLite's log back to the file."""
        self._database.flush()

    def close(self) -> None:
        """Closes the store, and removes unused generations."""
        if self._lock is None:
            return
        self._database.close()
        os.close(self._lock)
        self._lock = None
        with contextlib.suppress(OSError):
            generations.clean(self.folder)

    def __enter__(self) -> "LocalStore":
        """Returns self."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the store."""
        self.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._database.writing() as connection:
            # The lock of the transaction also keeps rebuilds from switching.
            if not self._is_draft:
                self._check_current()
            yield connection

    def is_current(self) -> bool:
        """Returns whether no other generation has replaced this one."""
        return generations.read(self.folder) == self.path

    def _check_current(self) -> None:
        if not self.is_current():
            raise UserError(
                f"The index in {self.name} has been rebuilt since it "
                "was opened; open it again to change it."
            )

    def _decode(self, blob: bytes) -> np.ndarray:
        return encoding.decode(blob, self.dim, self.storage)[0]

    def _one(self, query: str) -> int:
        with self._database.reading() as connection:
            return connection.execute(query).fetchone()[0]
