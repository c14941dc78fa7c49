"""Addresses of indexes in Milvus."""

import pathlib

import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.service.stores.milvus import address


@pytest.mark.parametrize(
    ("given", "uri", "collection", "is_lite"),
    [
        ("./shop.db", "./shop.db", "mixer_jax", True),
        ("a#b/shop.db", None, None, None),
        ("shop.db#shoes", "shop.db", "shoes", True),
        ("http://h:19530", "http://h:19530", "mixer_jax", False),
        ("https://h/catalog#x_1", "https://h/catalog", "x_1", False),
        ("shop", None, None, None),
        ("gs://bucket/shop.db", None, None, None),
    ],
)
def test_addresses_are_recognized(given, uri, collection, is_lite):
    assert address.is_milvus(given) == (uri is not None)
    if uri is not None:
        found = address.parse(given)
        assert found == (given, uri, collection, is_lite)


def test_a_token_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("MILVUS_TOKEN", "root:secret")
    server = address.parse("http://h:1")
    assert server.token == "root:secret"
    assert server.folder == pathlib.Path("/")
    assert "secret" not in repr(server)
    assert address.parse("shop.db").token == ""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("http://root:secret@h:1", "MILVUS_TOKEN=USER:PASSWORD instead"),
        ("http://h:1?a=b", "cannot have a query"),
        ("http://", "the form http://HOST:PORT"),
        ("http://h:x", "the form http://HOST:PORT"),
        ("http://me:secret@h:x", "the form http://HOST:PORT"),
        ("http://h#1", "'1' has an invalid name"),
        ("shop.db#a-b", "'a-b' has an invalid name"),
    ],
)
def test_invalid_addresses_are_rejected(given, message):
    with pytest.raises(UserError, match=message) as caught:
        address.parse(given)
    assert "secret" not in str(caught.value)


def test_a_file_is_no_database(tmp_path):
    (tmp_path / "shop.db").write_text("")
    with pytest.raises(UserError, match="is a file"):
        address.parse(str(tmp_path / "shop.db"))
