"""The generations of an index: collections, and an alias for the current one.

A rebuilt index is a new collection, COLLECTION_NUMBER, whose number is the time
of its creation. The alias COLLECTION switches to it atomically. The previous
collection is kept until the next switch, for the processes that still use it
and for `roll_back`.
"""

import re
import time
from collections.abc import Mapping
from typing import Any

from mixer_jax.runtime.errors import UserError
from mixer_jax.service.stores.milvus import schema
from mixer_jax.service.stores.milvus.connection import Connection

_KEPT = 1  # minimum number of earlier generations


def current(connection: Connection) -> str | None:
    """Returns the name of the current collection; None if there is none.

    Raises:
      UserError: if another program has created a collection of this name.
    """
    alias = connection.address.collection
    if alias in connection.call("list_aliases")["aliases"]:
        return connection.call("describe_alias", alias)["collection_name"]
    if alias in connection.call("list_collections"):
        raise schema.foreign(connection.address.name)
    return None


def require(connection: Connection) -> str:
    """Returns the name of the current collection.

    Raises:
      UserError: if there is none.
    """
    found = current(connection)
    if found is not None:
        return found
    name = connection.address.name
    if _own(connection.call("list_collections"), connection.address.collection):
        raise UserError(
            f"The index {name} is not complete; repeat the command that builds "
            "it to resume."
        )
    raise UserError(
        f"There is no index at {name}; build one with python -m "
        "mixer_jax.index build."
    )


def begin(connection: Connection, properties: Mapping[str, Any]) -> str:
    """Returns the collection of a new generation, which no reader sees yet.

    Continues that of an interrupted build if it has the same properties.

    Args:
      connection: the database.
      properties: what identifies the work.
    """
    alias = connection.address.collection
    last = current(connection)
    names = _own(connection.call("list_collections"), alias)
    for name in names[names.index(last) + 1 if last in names else 0 :]:
        if _continues(connection, name, properties):
            connection.load(name)
            return name
        connection.call("drop_collection", name)
    name = f"{alias}_{time.time_ns()}"
    schema.create(connection, name, properties)
    return name


def _continues(
    connection: Connection, name: str, properties: Mapping[str, Any]
) -> bool:
    found = connection.call("describe_collection", name)
    try:
        known = schema.read(found, connection.address.name)
    except UserError:
        return False
    return {key: known.get(key) for key in properties} == dict(properties)


def switch(connection: Connection, name: str, keep: int = 0) -> None:
    """Makes a collection the current one; drops those that are too old.

    Args:
      connection: the database.
      name: the collection.
      keep: the number of earlier generations to keep, at least one.
    """
    alias = connection.address.collection
    last = current(connection)
    if last is None:
        connection.call("create_alias", name, alias)
    elif last != name:
        _replace(connection, last, name)
    names = _own(connection.call("list_collections"), alias)
    for old in names[: max(names.index(name) - max(keep, _KEPT), 0)]:
        connection.call("drop_collection", old)


def earlier(connection: Connection) -> list[str]:
    """Returns the collections that `roll_back` can return to, latest first.

    Raises:
      UserError: as in `require`.
    """
    last, alias = require(connection), connection.address.collection
    names = _own(connection.call("list_collections"), alias)
    return [name for name in reversed(names) if name < last]


def roll_back(connection: Connection) -> str:
    """Makes the latest of the earlier collections the current one.

    The next `begin` drops the abandoned collection.

    Returns:
      The name of the current collection.

    Raises:
      UserError: if there is no earlier one.
    """
    last, kept = require(connection), earlier(connection)
    if not kept:
        raise UserError(
            f"The index {connection.address.name} has no earlier generation to "
            "return to; python -m mixer_jax.index rebuild keeps one, or more "
            "with --keep=N."
        )
    _replace(connection, last, kept[0])
    return kept[0]


def _replace(connection: Connection, last: str, name: str) -> None:
    """Makes the alias refer to another collection."""
    # Processes that still write to the previous collection must notice.
    schema.freeze(connection, last, is_on=True)
    if schema.is_frozen(connection.call("describe_collection", name)):
        schema.freeze(connection, name, is_on=False)  # as it was replaced
    connection.load(name)
    connection.call("alter_alias", name, connection.address.collection)


def _own(names: list[str], alias: str) -> list[str]:
    """Returns the collections of an index, oldest first."""
    pattern = re.compile(f"{alias}_([0-9]{{19}})")
    return sorted(name for name in names if pattern.fullmatch(name))
