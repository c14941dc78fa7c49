"""Places of indexes in Milvus."""

import pytest

from mixer_jax.runtime.errors import PassingError, UserError
from mixer_jax.service.stores import place
from mixer_jax.service.stores.milvus import connection, lite
from tests.service.stores.items import PROPERTIES, make


def test_an_index_exists_once_it_is_published(tmp_path):
    index = place.find(tmp_path / "new" / "index.db")
    assert not index.exists()
    assert not (tmp_path / "new").exists()
    with index.owned(), index.draft(PROPERTIES) as made:
        assert not index.exists()
        made.publish()
    assert index.exists()
    with index.held(), index.open() as store:
        assert store.name == index.name
        assert store.properties["index_kind"] == "HNSW"


def test_what_lite_lacks_is_refused(tmp_path):
    index = place.find(tmp_path / "index.db")
    index.check(PROPERTIES)
    with pytest.raises(UserError, match="Lite has no DISKANN"):
        index.check(PROPERTIES | {"index_kind": "DISKANN"})
    server = place.find("http://127.0.0.1:1")
    server.check(PROPERTIES | {"index_kind": "DISKANN"})


def test_a_database_that_cannot_be_opened_is_left(tmp_path, monkeypatch):
    path = tmp_path / "index.db"
    make(path).close()
    (path / "aliases.json").write_text("{")
    index = place.find(path)
    for use in (index.open, index.exists, lambda: index.draft(PROPERTIES)):
        with pytest.raises(UserError, match="Milvus Lite failed at"):
            use()
    assert not lite._opened
    monkeypatch.setattr(connection, "_CONNECT", 0.2)
    with pytest.raises(PassingError, match="does not answer"):
        place.find("http://127.0.0.1:1").exists()
