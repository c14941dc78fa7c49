"""A store in a folder."""

import shutil
import threading
import time

import numpy as np
import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.service.stores import database, local
from mixer_jax.service.stores.interface import Item, Store, Vector
from tests.service.stores import items
from tests.service.stores.items import DIM, found, item, make, vector


@pytest.fixture
def store(tmp_path):
    opened = make(
        tmp_path / "index",
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
    # SQLite would truncate or reject these IDs.
    assert store.delete(["a\0", "a\0b", "\ud800"]) == 0
    assert store.get(["a\0"]) == [None]
    assert store.contents(["a\0"]) == {}


def test_the_best_vector_of_an_item_counts(store):
    store.upsert([item("many", *[(1, 0, 0, x) for x in range(200)])])
    assert found(store, 1, k=3) == ["a", "many", "b"]
    (hits,) = store.search(vector(0, 0, 0, 1).embedding[None], 1)
    assert hits[0].id == "many"
    assert hits[0].score == pytest.approx(199 / (1 + 199**2) ** 0.5)
    # An upsert replaces all vectors; those it keeps need no embedding.
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
    # If included, "a" would represent its group.
    assert found(store, 1, without="a", group_by="brand") == ["b", "c"]


def test_a_change_of_fields_alone_is_seen(store):
    assert found(store, 1, where={"brand": "new"}) == []
    store.upsert([item("b", 1, 1, fields={"brand": "new"})])
    assert found(store, 1, where={"brand": "new"}) == ["b"]


def test_changes_of_other_processes_are_seen(store):
    with local.LocalStore.open(store.path.parent) as other:
        assert found(other, 1, k=1) == ["a"]
        store.delete(["a"])
        store.upsert([item("z", 1, 0.1)])
        assert found(other, 1, k=1) == ["z"]
        other.upsert([item("y", 1)])
        other.declare({"size": "number"})
        assert found(store, 1, k=1) == ["y"]
        assert store.fields["size"] == "number"


def test_many_removed_rows_are_forgotten(store, monkeypatch):
    from mixer_jax.service.stores import memory

    monkeypatch.setattr(memory, "_FEW", 2)
    for turn in range(4):
        store.upsert([item(id, 1, turn, 1) for id in "abcd"])
        assert sorted(found(store, 1)) == list("abcd")
        assert len(store._nearest._memory) <= 12


def test_a_failed_upsert_changes_nothing(store, monkeypatch):
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
    monkeypatch.setattr(local.reading, "loss", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        store.upsert([item("a", 5, 5)])
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


def test_fields_are_declared_with_the_first_valid_item(tmp_path):
    kinds = {"size": "number"}
    with make(tmp_path, fields={}) as store:
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
    assert list(store.ids(2)) == [["a", "b"], ["c"]]
    assert store.existing(["c", "no"]) == {"c"}
    bare = [[one.id for one in part] for part in store.without_thumbnail(2)]
    assert bare == [["a", "b"], ["c"]]
    parts = list(store.iterate(2))
    assert [[one.id for one in part] for part in parts] == [["a", "b"], ["c"]]
    np.testing.assert_array_equal(
        parts[0][0].vectors[0].embedding, vector(1).embedding
    )


def test_pictures_are_kept(store):
    shown = vector(1, image="a.png", thumbnail=b"small")
    store.upsert([Item("a", (shown, vector(0, 1, image="b.png")))])
    (hits,) = store.search(vector(1).embedding[None], 1)
    assert hits[0].image == "a.png"
    assert store.picture(hits[0].number) == ("a", "a.png", b"small")
    assert store.images() == ["b.png"]
    assert store.picture(10**6) is None
    store.upsert([Item("a", (vector(1, image="c.png", thumbnail=b"new"),))])
    (again,) = store.search(vector(1).embedding[None], 1)
    assert again[0].number == hits[0].number
    assert store.picture(hits[0].number) == ("a", "c.png", b"new")
    store.delete(["a"])
    assert store.picture(hits[0].number) is None


def test_a_moved_folder_is_the_same_store(store, tmp_path):
    store.close()
    shutil.copytree(tmp_path / "index", tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "index")
    with local.LocalStore.open(tmp_path / "elsewhere") as moved:
        assert found(moved, 1) == ["a", "b", "c"]


@pytest.mark.parametrize("storage", ["f16", "int8"])
def test_the_loss_of_smaller_numbers_is_measured(tmp_path, storage):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((50, DIM)).astype(np.float32)
    given = [item(str(i), *row) for i, row in enumerate(rows)]
    with make(tmp_path, *given[:30], storage=storage) as store:
        store.upsert(given[30:])
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        (hits,) = store.search(unit[:1], 50)
        cosines = {int(hit.id): hit.score for hit in hits}
        off = max(abs(cosines[i] - unit[0] @ unit[i]) for i in range(50))
        assert 0 < off <= store.loss.worst + 1e-6
        assert 0 < store.loss.mean < store.loss.worst < 0.02
        assert store.loss.count == 50


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


def test_a_damaged_file_is_reported(store, tmp_path):
    store.close()
    whole = store.path.read_bytes()
    for content in (b"", b"nothing", whole[:100], b"x" * len(whole)):
        store.path.write_bytes(content)
        with pytest.raises(UserError, match=r"damaged .*index build"):
            local.LocalStore.open(tmp_path / "index")
    store.path.unlink()
    with pytest.raises(UserError, match=r"items-1\.sqlite is missing"):
        local.LocalStore.open(tmp_path / "index")
    make(tmp_path / "index", item("new", 1)).close()
    with local.LocalStore.open(tmp_path / "index") as again:
        assert found(again, 1) == ["new"]


def test_an_invalid_property_is_reported(store, tmp_path):
    for key, value in (
        ("dim", "x"),
        ("dim", None),
        ("storage", "f1"),
        ("images", [1]),
        ("model", "run"),
    ):
        folder = tmp_path / key / str(value)
        with make(folder) as made:
            made._database.set(**{key: value})
        with pytest.raises(UserError, match="damaged"):
            local.LocalStore.open(folder)


def test_a_store_that_was_built_again_is_not_written(store, tmp_path):
    with local.LocalStore.draft(tmp_path / "index", items.PROPERTIES) as new:
        new.upsert([item("new", 1)])
        assert found(store, 1, k=1) == ["a"]
        new.publish()
        with pytest.raises(UserError, match="has been rebuilt"):
            store.upsert([item("late", 1)])
        assert found(store, 1, k=1) == ["a"]
        assert store.path.exists()
        store.close()
        assert not store.path.exists()
        new.upsert([item("later", 1)])
    with local.LocalStore.open(tmp_path / "index") as opened:
        assert found(opened, 1) == ["new", "later"]


def test_another_writer_is_waited_for(store, monkeypatch):
    monkeypatch.setattr(database, "_TIMEOUT", 0.01)
    with (
        local.LocalStore.open(store.path.parent) as other,
        store.frozen(),
        pytest.raises(UserError, match="locked by another process"),
    ):
        other.delete(["a"])


def test_a_waiting_write_delays_no_search(store):
    begun = threading.Event()

    def write():
        begun.set()
        store.upsert([item("z", 1, 0.1)])

    writing = threading.Thread(target=write)
    with local.LocalStore.open(store.path.parent) as other, other.frozen():
        writing.start()
        begun.wait()
        time.sleep(0.05)
        assert found(store, 1, k=2) == ["a", "b"]
    writing.join()
    # If the search had waited for the write, the write would have failed.
    assert found(store, 1, k=2) == ["a", "z"]
