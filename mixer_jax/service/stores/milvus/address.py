"""Addresses of indexes in Milvus, in the form used by pymilvus.

    ./shop.db                      Milvus Lite, a folder whose name ends in .db
    http://localhost:19530         a server or a cluster, also https://
    http://localhost:19530/catalog the database `catalog`
    http://localhost:19530#shoes   the collection `shoes`, by default mixer_jax

The token of a server, USER:PASSWORD or an API key, is read from the environment
variable MILVUS_TOKEN. It is never a part of the address, which is shown in
messages and in the list of processes.
"""

import os
import pathlib
import re
from typing import NamedTuple
from urllib.parse import urlsplit

from mixer_jax.runtime import files
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import quoted
from mixer_jax.service.stores import generations

TOKEN = "MILVUS_TOKEN"
_DEFAULT = "mixer_jax"  # the collection
_SCHEMES = ("http://", "https://", "tcp://")
_COLLECTION = re.compile("[A-Za-z_][A-Za-z0-9_]{0,199}")


class Address(NamedTuple):
    """The address of an index.

    Attributes:
      name: the address as given, for messages.
      uri: pymilvus's URI of the database.
      collection: the alias of the current collection.
      is_lite: whether Milvus runs in this process.
    """

    name: str
    uri: str
    collection: str
    is_lite: bool

    @property
    def folder(self) -> pathlib.Path:
        """The folder that recorded paths are relative to."""
        return pathlib.Path(self.uri if self.is_lite else "/")

    @property
    def token(self) -> str:
        """The token of the server; "" if there is none."""
        return "" if self.is_lite else os.environ.get(TOKEN, "")


def is_milvus(given: str) -> bool:
    """Returns whether an index is in Milvus rather than in a folder."""
    uri = given.partition("#")[0]
    if uri.lower().startswith(_SCHEMES):
        return True
    is_folder = os.path.lexists(os.path.join(uri, generations.INDEX))
    return uri.endswith(".db") and "://" not in uri and not is_folder


def parse(given: str) -> Address:
    """Returns the parts of an address for which `is_milvus` is true.

    Raises:
      UserError: if it is invalid.
    """
    uri, _, collection = given.partition("#")
    collection = collection or _DEFAULT
    if not _COLLECTION.fullmatch(collection):
        raise UserError(
            f"The collection {quoted(collection)} has an invalid name; it must "
            "consist of at most 200 letters, digits and underscores, and not "
            "begin with a digit."
        )
    is_lite = not uri.lower().startswith(_SCHEMES)
    if is_lite:
        if os.path.isfile(uri):
            files.check_fetched(pathlib.Path(uri))
            raise UserError(
                f"{uri} is a file, but Milvus Lite stores an index in a "
                "folder; choose another name that ends in .db."
            )
    else:
        _check_server(uri)
    return Address(given, uri, collection, is_lite)


def _check_server(uri: str) -> None:
    try:
        parts = urlsplit(uri)
        has_host, _ = bool(parts.hostname), parts.port  # may raise an error
    except ValueError:
        has_host = False
    if not has_host:
        raise UserError(
            f"The address {quoted(uri.rpartition('@')[2])} is invalid; it must "
            "have the form http://HOST:PORT or http://HOST:PORT/DATABASE."
        )
    if parts.username or parts.password:
        raise UserError(
            "The address of a Milvus server must not have a password, which "
            "would be shown in messages; set the environment variable "
            f"{TOKEN}=USER:PASSWORD instead."
        )
    if parts.query:
        raise UserError(
            "The address of a Milvus server cannot have a query string; name "
            "the collection as in http://HOST:PORT#COLLECTION."
        )
