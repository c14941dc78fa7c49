"""Rows of a collection."""

import pytest

from mixer_jax.service.stores.milvus import collection, rows
from tests.service.stores.items import PROPERTIES, found, item, make


@pytest.fixture
def store(tmp_path):
    with make(tmp_path / "index.db", item("a", (1,), (0, 1))) as made:
        yield made


def made(id, *vectors, stamp):
    """Returns the rows of an item."""
    return rows.make(item(id, *vectors), stamp)


def test_rows_of_an_earlier_write_are_not_found(store):
    # Only a process that dies between two requests leaves such rows.
    store._rows.write([made("a", (0, 0, 1), stamp=7)])
    assert store.count_vectors() == 2
    assert store.count() == 1
    assert found(store, 0, 1) == ["a"]
    (hits,) = store.search(item("", 0, 1).vectors[0].embedding[None], 5)
    assert [(hit.id, hit.score) for hit in hits] == [("a", 0)]
    assert len(store.get(["a"])[0].vectors) == 1
    assert [len(one.vectors) for (one,) in store.iterate(1)] == [1]
    assert [len(part) for part in store.without_thumbnail(5)] == [1]
    assert {len(one) for one in store.contents(["a"]).values()} == {1}
    assert store.picture("a", 1) is None
    store.delete(["a"])
    assert found(store, 0, 1) == []
    store.upsert([item("a", (1,), (0, 1))])
    assert store.count_vectors() == 2


def test_an_item_with_missing_rows_is_not_served(store):
    store._rows.remove([rows.key("a", 1)])
    assert store.get(["a"]) == [None]
    assert store.contents(["a"]) == {"a": set()}
    assert list(store.iterate(5)) == [[]]
    store.upsert([item("a", (1,), (0, 1))])
    assert len(store.get(["a"])[0].vectors) == 2


def test_requests_are_small_and_split_no_item(monkeypatch):
    given = [made(f"{i}", *[(1, x) for x in range(4)], stamp=i) for i in "abcd"]
    monkeypatch.setattr(collection, "_BATCH_ROWS", 10)
    batches = list(collection._batches(given))
    assert [len(batch) for batch in batches] == [8, 8]
    monkeypatch.setattr(collection, "_BATCH_BYTES", rows.size(given[0][0]))
    batches = list(collection._batches(given))
    assert [len(batch) for batch in batches] == [4] * 4
    assert [row for batch in batches for row in batch] == [
        row for one in given for row in one
    ]
    assert list(collection._batches([])) == []


def test_large_writes_and_reads_are_split(store, monkeypatch):
    monkeypatch.setattr(collection, "_BATCH_ROWS", 3)
    ids = [f"{i}" for i in range(10)]
    store.upsert([item(id, (1, int(id)), (2, int(id))) for id in ids])
    assert [one.id for one in store.get(ids)] == ids
    assert store.delete(ids) == 10
    assert store.count_vectors() == 2


def test_properties_are_recorded(store):
    properties, is_frozen = store._rows.describe()
    assert not is_frozen
    assert PROPERTIES.items() <= properties.items()
    changed = properties | {"recall": "größer"}
    store._rows.freeze(is_on=True)
    store._rows.record(changed)
    assert store._rows.describe() == (changed, True)
    store._rows.freeze(is_on=False)
    assert store._rows.describe() == (changed, False)
