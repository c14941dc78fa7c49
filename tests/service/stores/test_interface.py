"""Tests of the behavior that all stores share, run with each of them."""

import threading

import numpy as np
import pytest

from mixer_jax.runtime.errors import PassingError, UserError
from mixer_jax.service.stores import database, place
from mixer_jax.service.stores.interface import Item, Store, Vector
from tests.service.stores import items
from tests.service.stores.items import DIM, found, item, make, vector


@pytest.fixture(params=["index", "index.db"])
def path(request, tmp_path):
    """A folder, or an address of Milvus Lite."""
    return tmp_path / request.param


@pytest.fixture
def store(path):
    opened = make(
        path,
        item("a", 1, text="first", fields={"brand": "acme", "price": 1}),
        item("b", 1, 1, group="g", fields={"brand": "zen", "price": 2.5}),
        item("c", 0, 1, category="k", fields={"brand": "acme"}),
    )
    with opened:
        yield opened


def test_the_nearest_items_are_found(store: Store):
    (hits,) = store.search(vector(2).embedding[None], 2)
    assert [hit.id for hit in hits] == ["a", "b"]
    assert [hit.score for hit in hits] == pytest.approx([1, 0.5**0.5])
    first = hits[0]
    assert (first.text, first.group, first.number) == ("first", "", -1)
    assert first.fields == {"brand": "acme", "price": 1}
    assert hits[1].group == "g"
    assert found(store, 1, offset=1) == ["b", "c"]
    assert found(store, 1, min_score=0.5) == ["a", "b"]
    queries = np.eye(DIM, dtype=np.float32)[:2]
    assert [len(one) for one in store.search(queries, 3)] == [3, 3]
    assert store.search(queries[:0], 3) == []


def test_items_are_replaced_and_deleted(store):
    store.upsert([item("a", 0, 0, 1), item("d", 1)])
    assert found(store, 1, k=2) == ["d", "b"]
    assert found(store, 0, 0, 1, k=1) == ["a"]
    assert store.get(["a", "none"])[1] is None
    assert store.get(["a"])[0].text == ""
    assert store.delete(["d", "none", "b"]) == 2
    assert found(store, 1) == ["c", "a"]
    assert (store.count(), store.count_vectors()) == (2, 2)
    assert store.delete([]) == 0
    # A null character ends a string in SQLite.
    assert store.delete(["a\0", "a\0b", "\ud800"]) == 0
    assert store.get(["a\0"]) == [None]
    assert store.contents(["a\0"]) == {}


def test_the_best_vector_of_an_item_counts(store):
    store.upsert([item("many", *[(1, 0, 0, x) for x in range(200)])])
    assert found(store, 1, k=3) == ["a", "many", "b"]
    (hits,) = store.search(vector(0, 0, 0, 1).embedding[None], 1)
    assert hits[0].id == "many"
    assert hits[0].score == pytest.approx(199 / (1 + 199**2) ** 0.5)
    # An upsert replaces all vectors; a vector that it keeps needs no embedding.
    kept = vector(1, 0, 0, 7)._replace(embedding=None)
    store.upsert([Item("many", (kept, vector(0, 0, 1)))])
    assert store.count_vectors() == 5
    assert found(store, 0, 0, 1, k=1) == ["many"]
    assert found(store, 1, 0, 0, 7, k=1) == ["many"]
    unknown = Item("new", (kept,))
    with pytest.raises(UserError, match="'new' was changed by another"):
        store.upsert([item("e", 1), unknown])
    assert store.get(["e"]) == [None]


def test_equal_vectors_of_an_item_are_stored_once(store):
    store.upsert([item("twice", (1, 2), (1, 2))])
    store.upsert([item("twice", (1, 2), (1, 2))])
    assert store.count_vectors() == 4


def test_filters_and_groups(store):
    assert found(store, 1, where={"brand": "acme"}) == ["a", "c"]
    assert found(store, 1, where={"price": {"min": 2}}) == ["b"]
    assert found(store, 1, where={"category": "k"}) == ["c"]
    assert found(store, 1, where={"brand": []}) == []
    assert found(store, 1, group_by="brand") == ["a", "b"]
    # Each item without a value forms its own group.
    assert found(store, 1, group_by="group") == ["a", "b", "c"]
    store.upsert([item("c", 1, 0.1, fields={"brand": "zen"})])
    assert found(store, 1, where={"brand": "acme"}) == ["a"]
    assert found(store, 1, group_by="brand") == ["a", "c"]
    with pytest.raises(UserError, match="'brnad'; did you mean 'brand'"):
        found(store, 1, where={"brnad": "acme"})
    with pytest.raises(UserError, match="no field 'x'"):
        found(store, 1, group_by="x")


def test_names_of_fields_may_have_any_letters(store):
    store.declare({"größe": "text"})
    large = {"größe": "groß"}
    store.upsert([item("d", 1, 0.1, fields=large), item("e", 1, fields=large)])
    assert found(store, 1, where=large) == ["e", "d"]
    assert "d" not in found(store, 1, group_by="größe")


def test_an_item_can_be_left_out(store):
    assert found(store, 1, without="a") == ["b", "c"]
    assert found(store, 1, without="none") == ["a", "b", "c"]
    where = {"brand": "acme"}
    assert found(store, 1, without="a", where=where) == ["c"]
    assert found(store, 1, where=where) == ["a", "c"]
    # Otherwise, it would represent its group.
    assert found(store, 1, without="a", group_by="brand") == ["b", "c"]


def test_a_change_of_fields_alone_is_seen(store):
    assert found(store, 1, where={"brand": "new"}) == []
    store.upsert([item("b", 1, 1, fields={"brand": "new"})])
    assert found(store, 1, where={"brand": "new"}) == ["b"]


def test_a_failed_upsert_changes_nothing(store):
    before = store.get(["a", "b", "c"])
    for bad, message in (
        (item("x", 1, fields={"brnad": "a"}), "'brnad'; did you mean 'brand'"),
        (item("x", 1, fields={"price": "1"}), "this field is a number"),
        (Item("", (vector(1),)), "must be a non-empty string"),
        (Item("x", ()), "no vector"),
        (Item("x", (Vector(b"x", np.zeros(3)),)), r"the shape \(3,\), but"),
        (item("x", 0), "zero or not finite"),
        (item("x", float("nan")), "zero or not finite"),
        (item("x", 1, text="\ud800"), "cannot be stored"),
        (item("x\0", 1), "cannot be stored"),
    ):
        with pytest.raises(UserError, match=message):
            store.upsert([item("a", 5, 5), bad])
    for one, other in zip(before, store.get(["a", "b", "c"]), strict=True):
        assert str(one) == str(other)
    assert found(store, 1, k=1) == ["a"]


def test_invalid_queries_are_rejected(store):
    for query, message in (
        (np.ones((1, DIM + 1)), r"shape \(1, 5\); this index needs \[Q, 4\]"),
        (np.ones(DIM), "shape"),
        (np.full((1, DIM), np.nan), "not finite"),
    ):
        with pytest.raises(UserError, match=message):
            store.search(query, 1)


def test_fields_are_declared_with_the_first_valid_item(path):
    kinds = {"size": "number"}
    with make(path, fields={}) as store:
        with pytest.raises(UserError, match="zero or not finite"):
            store.upsert([item("a", 0)], kinds)
        with pytest.raises(UserError, match="cannot have the name"):
            store.upsert([item("a", 1)], {"": "text"})
        assert store.fields == {}
        store.upsert([item("a", 1, fields={"size": 2})], kinds)
        assert store.fields == kinds
        store.upsert([item("a", 1)], {"other": "text"})
        assert store.fields == kinds


def test_all_items_are_iterated(store):
    def joined(parts):
        assert [len(part) for part in parts] == [2, 1]
        return sorted(one for part in parts for one in part)

    assert joined(list(store.ids(2))) == ["a", "b", "c"]
    assert store.existing(["c", "no"]) == {"c"}
    bare = [[one.id for one in part] for part in store.without_thumbnail(2)]
    assert joined(bare) == ["a", "b", "c"]
    parts = [[(one.id, one) for one in part] for part in store.iterate(2)]
    (_, first), *_ = joined(parts)
    np.testing.assert_array_equal(
        first.vectors[0].embedding, vector(1).embedding
    )


def test_pictures_are_kept(store):
    shown = vector(1, image="a.png", thumbnail=b"small")
    store.upsert([Item("a", (shown, vector(0, 1, image="b.png")))])
    (hits,) = store.search(vector(1).embedding[None], 1)
    assert hits[0].image == "a.png"
    assert store.picture("a", hits[0].number) == ("a", "a.png", b"small")
    assert store.images() == ["b.png"]
    assert store.picture("a", 10**6) is None
    assert store.picture("b", hits[0].number) in (None, ("b", "", b""))
    store.upsert([Item("a", (vector(1, image="c.png", thumbnail=b"new"),))])
    (again,) = store.search(vector(1).embedding[None], 1)
    assert again[0].number == hits[0].number
    assert store.picture("a", hits[0].number) == ("a", "c.png", b"new")
    store.delete(["a"])
    assert store.picture("a", hits[0].number) is None


def test_fields_can_be_added(store):
    store.declare({"size": "number", "brand": "text"})
    store.upsert([item("a", 1, fields={"size": 3})])
    assert found(store, 1, where={"size": [3, 4]}) == ["a"]
    with pytest.raises(UserError, match=r"'brand' .* is a text, not a number"):
        store.declare({"brand": "number"})


def test_searches_and_writes_of_several_threads(store):
    def write(name):
        for turn in range(10):
            store.upsert([item(f"{name}{turn}", 1, turn)])
            assert f"{name}{turn}" in found(store, 1, k=50)

    threads = [threading.Thread(target=write, args=[n]) for n in "xyz"]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert store.count() == 33


def test_scores_and_order_equal_those_of_a_reference(path):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((300, DIM)).astype(np.float32)
    given = [
        item(f"{i}", *map(tuple, rows[3 * i : 3 * i + 3]), group=f"{i % 4}")
        for i in range(100)
    ]
    queries = rng.standard_normal((5, DIM)).astype(np.float32)
    unit = rows.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    lengths = np.linalg.norm(queries.astype(np.float64), axis=1, keepdims=True)
    cosines = (queries / lengths) @ unit.T
    best = cosines.reshape(5, 100, 3).max(axis=2)
    best[:, np.arange(100) % 4 == 3] = -np.inf
    order = np.argsort(-best, axis=1)[:, 5:25]
    where = {"group": {"max": "2"}}
    with make(path, *given) as store:
        answers = store.search(queries, 20, where=where, offset=5)
    for row, expected, hits in zip(best, order, answers, strict=True):
        assert [int(hit.id) for hit in hits] == expected.tolist()
        scores = [hit.score for hit in hits]
        np.testing.assert_allclose(scores, row[expected], atol=1e-6)


def test_equally_near_items_are_all_found(path):
    given = [item(f"{i}", 1, 1, i) for i in range(3)]
    given += [item(f"same {i}", 2, 2) for i in range(60)]
    with make(path, *given) as store:
        query = vector(1, 1).embedding[None]
        (hits,) = store.search(query, 61)
        assert {hit.id for hit in hits} == {
            "0",
            *(f"same {i}" for i in range(60)),
        }
        assert store.search(query, 30) == store.search(query, 30)


def test_a_frozen_store_is_not_written(store, path, monkeypatch):
    monkeypatch.setattr(database, "_TIMEOUT", 0.01)
    before = store.state
    with place.find(path).open() as other:
        with store.frozen(), pytest.raises(PassingError, match="try again"):
            other.delete(["a"])
        assert other.count() == 3
        other.upsert([item("d", 1)])
    assert store.state != before


def test_a_store_that_was_built_again_is_not_written(store, path):
    with place.find(path).draft(store.properties | {"source": "new"}) as new:
        new.upsert([item("new", 1)])
        assert found(store, 1, k=1) == ["a"]
        assert store.is_current()
        new.publish()
        assert new.is_current()
        assert not store.is_current()
        with pytest.raises(UserError, match="has been rebuilt"):
            store.upsert([item("late", 1)])
        assert found(store, 1, k=1) == ["a"]
        store.close()
        new.upsert([item("later", 1)])
    with place.find(path).open() as opened:
        assert sorted(found(opened, 1)) == ["later", "new"]


def test_an_unfinished_build_is_continued(path):
    index = place.find(path)
    assert not index.exists()
    with index.owned(), index.draft(items.PROPERTIES) as begun:
        begun.upsert([item("a", 1)])
    with pytest.raises(UserError, match="is not complete"):
        index.open()
    with index.draft(items.PROPERTIES | {"source": "other"}) as other:
        assert other.count() == 0
    with index.draft(items.PROPERTIES) as begun:
        begun.upsert([item("a", 1)])
    with index.draft(items.PROPERTIES) as again:
        assert again.contents(["a", "b"]) == {"a": {vector(1).content}}
        again.publish()
    assert index.exists()
    with index.open() as opened:
        assert found(opened, 1) == ["a"]
        assert {"stored as"} < opened.facts().keys()
