"""The collections of an index: one row per vector.

    key        the item's digest and the vector's place in the item; the primary
               key, because IDs can be longer than keys and hold any character
    id         the item's ID
    place      the vector's place in its item, from 0
    vectors    the number of the item's vectors
    stamp      a random number that all rows of one write of an item share
    text, group, category, fields
               of the item
    content, image, thumbnail, embedding
               of the vector; the thumbnail in base64, because Milvus stores no
               bytes
    pictured   whether the vector has a picture

An item's row at place 0 is its head, and decides which rows are valid: those
with the head's stamp. A write of an item replaces its rows in one request. Rows
of an earlier write that it does not replace lose their validity at once, and
are deleted afterwards.

The properties of an index are a JSON object in the collection's property
`mixer_jax`.
"""

import json
from collections.abc import Mapping
from typing import Any

from mixer_jax.runtime.errors import NewerFormatError, UserError
from mixer_jax.service.stores.milvus import options
from mixer_jax.service.stores.milvus.connection import Connection

FORMAT = 1  # incremented on changes that older versions cannot read
PROPERTIES, _FROZEN = "mixer_jax", "mixer_jax_frozen"
TEXT_BYTES = 65_535  # maximum size of a text, in UTF-8
HEADS, OTHERS = "place == 0", "place > 0"
COLUMNS = [
    "key",
    "id",
    "place",
    "vectors",
    "stamp",
    "text",
    "group",
    "category",
    "fields",
    "content",
    "image",
    "thumbnail",
    "pictured",
    "embedding",
]
_TEXTS = ("id", "text", "group", "category", "image", "thumbnail")


def create(
    connection: Connection, collection: str, properties: Mapping[str, Any]
) -> None:
    """Creates a collection, which can be searched at once.

    Args:
      connection: the database.
      collection: the name of the collection.
      properties: the properties of the index.
    """
    connection.call(
        "create_collection",
        collection,
        schema=_schema(properties["dim"]),
        properties={PROPERTIES: write(properties)},
        consistency_level=properties["consistency"],
    )
    # Lite builds an index for each file of rows, and needs none to search.
    if not connection.address.is_lite:
        create_index(connection, collection, properties)
    connection.load(collection)


def create_index(
    connection: Connection, collection: str, properties: Mapping[str, Any]
) -> None:
    """Creates the index of the embeddings."""
    from pymilvus import MilvusClient

    chosen = MilvusClient.prepare_index_params()
    chosen.add_index(
        "embedding", index_name="embedding", **options.index(properties)
    )
    connection.call("create_index", collection, chosen, timeout=None)


def _schema(dim: int) -> Any:
    from pymilvus import DataType, MilvusClient

    schema = MilvusClient.create_schema(
        auto_id=False, enable_dynamic_field=False
    )
    text = DataType.VARCHAR
    schema.add_field("key", text, is_primary=True, max_length=64)
    for name in _TEXTS:
        schema.add_field(name, text, max_length=TEXT_BYTES)
    schema.add_field("content", text, max_length=32)
    for name in ("place", "vectors", "stamp"):
        schema.add_field(name, DataType.INT64)
    schema.add_field("pictured", DataType.BOOL)
    schema.add_field("fields", DataType.JSON)
    schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=dim)
    return schema


def freeze(connection: Connection, collection: str, *, is_on: bool) -> None:
    """Makes all processes refuse to write to a collection, or allows it."""
    connection.call(
        "alter_collection_properties",
        collection,
        {_FROZEN: str(is_on).lower()},
    )


def is_frozen(found: Mapping[str, Any]) -> bool:
    """Returns whether a collection is frozen, from its description."""
    return str(found["properties"].get(_FROZEN, "")).lower() == "true"


def write(properties: Mapping[str, Any]) -> str:
    """Returns the value of the property `mixer_jax`."""
    return json.dumps({"format": FORMAT, **properties})


def read(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns the properties of an index.

    Args:
      found: the result of `describe_collection`.
      name: what messages call the index.

    Raises:
      UserError: if the collection is not that of an index, or has a newer
        format.
    """
    try:
        properties = json.loads(found["properties"][PROPERTIES])
        format, dim = int(properties["format"]), int(properties["dim"])
        is_whole = {"storage", "fingerprint", "fields"} <= properties.keys()
        (own,) = (
            field["params"]["dim"]
            for field in found["fields"]
            if field["name"] == "embedding"
        )
    except (KeyError, TypeError, ValueError) as error:
        raise foreign(name) from error
    if format > FORMAT:
        raise NewerFormatError(
            f"The index {name} has format {format}, written by a newer "
            "version of mixer_jax; upgrade mixer_jax."
        )
    if int(own) != dim or not is_whole:
        raise foreign(name)
    return properties


def foreign(name: str) -> UserError:
    """Returns the error for a collection that is not that of an index."""
    return UserError(
        f"The collection at {name} was not written by mixer_jax; name another "
        "one, as in http://HOST:PORT#COLLECTION or ./shop.db#COLLECTION."
    )
