"""Finds where an index is: in a folder, or in a Milvus database."""

import os
import pathlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from jax.sharding import Mesh

from mixer_jax.runtime import paths
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.ownership import folder_lock
from mixer_jax.service.stores import generations
from mixer_jax.service.stores.interface import Place
from mixer_jax.service.stores.local import LocalStore
from mixer_jax.service.stores.milvus import address, options
from mixer_jax.service.stores.milvus.place import MilvusPlace

_MODEL = "model"  # folder inside that of an index


def find(index: str | os.PathLike) -> Place:
    """Returns where an index is, or is to be built.

    Args:
      index: a folder, or the address of a Milvus database; see
        `milvus.address`.

    Raises:
      UserError: if it is neither.
    """
    given = os.fspath(index)
    if address.is_milvus(given):
        return MilvusPlace(address.parse(given))
    return LocalPlace(paths.local(index, "An index"))


class LocalPlace:
    """A folder of this machine; implements `interface.Place`.

    Attributes:
      name: the folder's name, for messages.
      folder: the folder.
      disk: the folder.
    """

    def __init__(self, folder: pathlib.Path):
        """Takes the folder."""
        self.name, self.folder, self.disk = str(folder), folder, folder

    def check(self, properties: Mapping[str, Any]) -> None:
        """Raises a `UserError` for options of Milvus."""
        for name in options.NAMES:
            if name in properties:
                raise UserError(
                    f"{name} is {properties[name]!r}, but {self.name} is a "
                    "folder; this option is for an index in Milvus, such as "
                    "./shop.db or http://localhost:19530."
                )

    def exists(self) -> bool:
        """Returns whether there is an index, even if it is damaged."""
        return os.path.lexists(self.folder / generations.INDEX)

    def open(
        self, mesh: Mesh | None = None, generation: str = ""
    ) -> LocalStore:
        """Opens the current or a given generation; see `LocalStore.open`."""
        if generation:
            return LocalStore(self.folder / generation, mesh)
        return LocalStore.open(self.folder, mesh)

    def draft(self, properties: Mapping[str, Any]) -> LocalStore:
        """Begins, or continues, a generation; see `LocalStore.draft`."""
        return LocalStore.draft(self.folder, properties)

    def folder_of_model(self) -> pathlib.Path:
        """Returns a folder inside that of the index, which it creates."""
        generations.reserve(self.folder)
        return self.folder / _MODEL

    def earlier(self) -> list[str]:
        """Returns the names of the kept files, latest first."""
        return [path.name for path in generations.earlier(self.folder)]

    def roll_back(self) -> str:
        """Makes the latest kept file the current one; returns its name."""
        return generations.roll_back(self.folder).name

    def owned(self) -> AbstractContextManager[None]:
        """Reserves the folder; see `generations.owned`."""
        return generations.owned(self.folder)

    def held(self) -> AbstractContextManager[None]:
        """Keeps others from rebuilding the index during a block."""
        return folder_lock.hold(self.folder, "--index")
