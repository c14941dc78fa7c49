"""The properties of a collection."""

import json

import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.service.stores.milvus import schema
from tests.service.stores.items import PROPERTIES

FIELDS = [{"name": "embedding", "params": {"dim": 4}}]


def described(text, fields=FIELDS):
    return {"properties": {"mixer_jax": text}, "fields": fields}


def test_properties_are_read_back():
    text = schema.write(PROPERTIES)
    found = schema.read(described(text), "shop")
    assert found == PROPERTIES | {"format": 1}


@pytest.mark.parametrize(
    "found",
    [
        {"fields": FIELDS},
        {"properties": {}, "fields": FIELDS},
        described("{"),
        described("[]"),
        described(json.dumps({"format": 1, "dim": 4})),
        described(schema.write(PROPERTIES), []),
        described(schema.write(PROPERTIES | {"dim": 5})),
        described(schema.write(PROPERTIES | {"dim": "x"})),
    ],
)
def test_other_collections_are_refused(found):
    with pytest.raises(UserError, match="shop was not written by mixer_jax"):
        schema.read(found, "shop")
