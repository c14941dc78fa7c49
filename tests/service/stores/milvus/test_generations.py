"""Collections and the alias of the current one."""

import contextlib

import pytest

from mixer_jax.runtime.errors import NewerFormatError, UserError
from mixer_jax.service.stores import place
from mixer_jax.service.stores.milvus import address, generations, schema
from mixer_jax.service.stores.milvus.connection import Connection
from tests.service.stores.items import PROPERTIES, found, item, make


@pytest.fixture
def path(tmp_path):
    return tmp_path / "index.db"


@pytest.fixture
def connected(path):
    with contextlib.closing(Connection(address.parse(str(path)))) as made:
        yield made


def test_one_earlier_generation_is_kept(path, connected):
    names = []
    for turn in range(3):
        with make(path, item("a", 1), source=f"{turn}") as store:
            names.append(store.generation)
            assert generations.current(connected) == names[-1]
    assert sorted(connected.call("list_collections")) == names[1:]


def test_a_database_may_hold_several_indexes(path):
    other = f"{path}#shoes"
    with make(path, item("a", 1)), place.find(other).draft(PROPERTIES) as shoes:
        shoes.upsert([item("shoe", 1)])
        shoes.publish()
        with place.find(path).open() as opened:
            assert found(opened, 1) == ["a"]
        with place.find(other).open() as opened:
            assert found(opened, 1) == ["shoe"]


def test_collections_of_others_are_refused(path, connected):
    connected.call("create_collection", "mixer_jax", dimension=4)
    index = place.find(path)
    for use in (index.open, index.exists, lambda: index.draft(PROPERTIES)):
        with pytest.raises(UserError, match="not written by mixer_jax"):
            use()
    connected.call("create_collection", "own", dimension=4)
    connected.call("create_alias", "own", "theirs")
    with pytest.raises(UserError, match=r"theirs was not written by mixer_jax"):
        place.find(f"{path}#theirs").open()
    assert sorted(connected.call("list_collections")) == ["mixer_jax", "own"]


def test_a_newer_format_is_refused(path, connected, monkeypatch):
    monkeypatch.setattr(schema, "FORMAT", 2)
    make(path, item("a", 1)).close()
    monkeypatch.undo()
    with pytest.raises(NewerFormatError, match=r"format 2, .* upgrade"):
        place.find(path).open()


def test_a_missing_index_is_reported(path, connected):
    for index in (path, path.with_name("none.db")):
        with pytest.raises(UserError, match="There is no index at"):
            place.find(index).open()
    assert not path.with_name("none.db").exists()


def test_an_index_can_return_to_earlier_generations(path, connected):
    names, index = [], place.find(path)
    for turn in range(4):
        with index.draft({**PROPERTIES, "source": f"{turn}"}) as store:
            store.upsert([item(f"{turn}", 1)])
            store.publish(keep=2)
            names.append(store.generation)
    assert index.earlier() == [names[2], names[1]]
    with index.open() as last:
        assert index.roll_back() == names[2]
        assert index.earlier() == [names[1]]
        with pytest.raises(UserError, match="has been rebuilt since"):
            last.delete(["3"])
    with index.open() as store:
        assert found(store, 1) == ["2"]
        store.upsert([item("new", 1)])
    with index.open(generation=names[1]) as store:
        assert found(store, 1) == ["1"]
    # The next build drops the abandoned generation.
    with index.draft({**PROPERTIES, "source": "4"}) as store:
        store.publish()
        assert index.earlier() == [names[2]]
    assert names[3] not in connected.call("list_collections")
    assert index.roll_back() == names[2]
    with pytest.raises(UserError, match="no earlier generation"):
        index.roll_back()
