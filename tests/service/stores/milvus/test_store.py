"""A store in Milvus."""

import numpy as np
import pytest

from mixer_jax.runtime.errors import PassingError
from mixer_jax.service.stores import place
from mixer_jax.service.stores.interface import Item
from mixer_jax.service.stores.milvus import searching
from tests.service.stores.items import DIM, found, item, make, vector


def random_items(count):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((count, DIM)).astype(np.float32)
    return [item(f"{i}", *row) for i, row in enumerate(rows)]


def test_the_recall_is_reported_after_a_build(tmp_path):
    given = random_items(200)
    with make(tmp_path / "index.db", *given, index_kind="HNSW") as store:
        facts = store.facts()
        assert facts["stored as"] == "f32, HNSW index, Strong consistency"
        share = float(facts["recall"].split()[1])
        assert "64 stored vectors among 200" in facts["recall"]
        assert 0.95 < share <= 1
        assert store.measure().share == pytest.approx(share, abs=1e-3)
    with make(tmp_path / "flat.db", *given[:5]) as flat:
        assert "recall" not in flat.facts()


def test_a_wrong_index_has_a_low_recall(tmp_path, monkeypatch):
    with make(tmp_path / "index.db", *random_items(100)) as store:
        search = type(store)._pages

        def find_worst(self, queries, width, expression):
            pages = search(self, queries, 100, expression)
            return [page._replace(found=page.found[-width:]) for page in pages]

        monkeypatch.setattr(type(store), "_pages", find_worst)
        assert store.measure().share == 0


def test_a_write_to_a_store_that_was_frozen_meanwhile_is_not_acknowledged(
    tmp_path, monkeypatch
):
    path = tmp_path / "index.db"
    with make(path, item("a", 1)) as store, place.find(path).open() as other:
        write = type(store._rows).write

        def freeze_and_write(self, given):
            other._rows.freeze(is_on=True)
            write(self, given)

        monkeypatch.setattr(type(store._rows), "write", freeze_and_write)
        with pytest.raises(PassingError, match="being switched"):
            store.upsert([item("b", 1)])


def test_unchanged_items_are_not_written(tmp_path, monkeypatch):
    given = item("a", (1,), (0, 1), text="x", fields={"price": 1})
    with make(tmp_path / "index.db", given) as store:
        state = store.state
        store.upsert([given])
        kept = [one._replace(embedding=None) for one in given.vectors]
        store.upsert([given._replace(vectors=tuple(kept))])
        assert store.state == state
        store.upsert([given._replace(text="y")])
        assert store.state != state


def test_pages_of_vectors_of_one_item_do_not_hide_others(tmp_path, monkeypatch):
    monkeypatch.setattr(searching, "_SPARE", 0)
    many = item("many", *[(1, x / 100) for x in range(30)])
    others = [item(f"{i}", 1, 1, i) for i in range(5)]
    with make(tmp_path / "index.db", many, *others) as store:
        assert found(store, 1, k=4) == ["many", "0", "1", "2"]
        assert found(store, 1, k=9) == ["many", *"01234"]


def test_an_index_that_was_moved_is_the_same(tmp_path):
    with make(tmp_path / "index.db", Item("a", (vector(1, image="a.png"),))):
        pass
    (tmp_path / "index.db").rename(tmp_path / "moved.db")
    with place.find(tmp_path / "moved.db").open() as store:
        assert found(store, 1) == ["a"]
        assert store.picture("a", 0) == ("a", "a.png", b"")
        assert store.folder == tmp_path / "moved.db"
