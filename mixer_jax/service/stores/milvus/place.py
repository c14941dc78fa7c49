"""An index in a Milvus database."""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from jax.sharding import Mesh

from mixer_jax.runtime.errors import UserError
from mixer_jax.service.stores.milvus import generations, options
from mixer_jax.service.stores.milvus.address import Address
from mixer_jax.service.stores.milvus.connection import Connection
from mixer_jax.service.stores.milvus.store import MilvusStore


class MilvusPlace:
    """The address of an index in Milvus; implements `interface.Place`.

    Attributes:
      name: the address, for messages.
      folder: the folder that recorded paths are relative to.
      disk: the folder of Milvus Lite; None for a server.
    """

    def __init__(self, address: Address):
        """Takes the address."""
        self._address = address
        self.name, self.folder = address.name, address.folder
        self.disk: pathlib.Path | None = None
        if address.is_lite:
            self.disk = address.folder

    def check(self, properties: Mapping[str, Any]) -> None:
        """Raises a `UserError` unless Milvus supports these properties."""
        options.check(properties, is_lite=self._address.is_lite)

    def exists(self) -> bool:
        """Returns whether there is an index."""
        if self.disk is not None and not os.path.isdir(self.disk):
            return False
        with contextlib.closing(Connection(self._address)) as connection:
            return generations.current(connection) is not None

    def open(
        self, mesh: Mesh | None = None, generation: str = ""
    ) -> MilvusStore:
        """Opens a generation; Milvus searches it, not a mesh.

        Args:
          mesh: unused.
          generation: one of `earlier`; "" for the current one.

        Raises:
          UserError: if there is no index, it is of a newer format, or Milvus
            cannot be reached.
        """
        if self.disk is not None and not os.path.isdir(self.disk):
            raise UserError(
                f"There is no index at {self.name}; build one with python -m "
                "mixer_jax.index build."
            )
        connection = Connection(self._address)
        try:
            name = generation or generations.require(connection)
            connection.load(name)
            return MilvusStore(connection, name)
        except BaseException:
            connection.close()
            raise

    def draft(self, properties: Mapping[str, Any]) -> MilvusStore:
        """Begins, or continues, a generation that no reader sees yet."""
        connection = Connection(self._address)
        try:
            given = options.complete(properties)
            name = generations.begin(connection, given)
            return MilvusStore(connection, name, is_draft=True)
        except BaseException:
            connection.close()
            raise

    def folder_of_model(self) -> pathlib.Path:
        """Raises a `UserError`: a database cannot hold files."""
        raise UserError(
            f"The index {self.name} cannot hold a model; name one with "
            "--workdir, such as one saved by mixer_jax.from_encoders().save()."
        )

    def earlier(self) -> list[str]:
        """Returns the names of earlier collections, latest first."""
        with contextlib.closing(Connection(self._address)) as connection:
            return generations.earlier(connection)

    def roll_back(self) -> str:
        """Makes the latest earlier collection current; returns its name."""
        with contextlib.closing(Connection(self._address)) as connection:
            return generations.roll_back(connection)

    @contextlib.contextmanager
    def owned(self) -> Iterator[None]:
        """Connects first, and thereby locks the database of Milvus Lite.

        A server has no lock; build an index in one process at a time.
        """
        with contextlib.closing(Connection(self._address)):
            yield

    held = owned
