"""A store in a folder."""

import shutil
import threading
import time

import numpy as np
import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.service.stores import database, local, reading
from tests.service.stores import items
from tests.service.stores.items import DIM, found, item, make


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


def test_changes_of_other_processes_are_seen(store):
    with local.LocalStore.open(store.folder) as other:
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
        with store._database.reading() as connection:
            loss = reading.loss(connection)
        assert 0 < off <= loss.worst + 1e-6
        assert 0 < loss.mean < loss.worst < 0.02
        assert loss.count == 50
        assert f"{storage}, cosines off by" in store.facts()["stored as"]


def test_an_upsert_that_fails_in_the_middle_changes_nothing(store, monkeypatch):
    (before,) = store.get(["a"])
    monkeypatch.setattr(reading, "loss", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        store.upsert([item("a", 5, 5)])
    assert str(store.get(["a"])[0]) == str(before)
    assert found(store, 1, k=1) == ["a"]


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


def test_the_files_of_a_replaced_store_are_removed(store, tmp_path):
    with local.LocalStore.draft(tmp_path / "index", items.PROPERTIES) as new:
        new.publish()
        assert store.path.exists()
        store.close()
        assert not store.path.exists()


def test_another_writer_is_waited_for(store, monkeypatch):
    monkeypatch.setattr(database, "_TIMEOUT", 0.01)
    with (
        local.LocalStore.open(store.folder) as other,
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
    with local.LocalStore.open(store.folder) as other, other.frozen():
        writing.start()
        begun.wait()
        time.sleep(0.05)
        assert found(store, 1, k=2) == ["a", "b"]
    writing.join()
    # If the search had waited for the write, the write would have failed.
    assert found(store, 1, k=2) == ["a", "z"]
