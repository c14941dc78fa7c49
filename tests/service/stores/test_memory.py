import numpy as np
import pytest

from mixer_jax.service.stores import memory
from mixer_jax.service.stores.database import Database
from tests.service.stores.items import DIM, item, make, vector


@pytest.fixture
def store(tmp_path):
    with make(
        tmp_path / "index", *[item(str(i), 1, i) for i in range(9)]
    ) as one:
        yield one


@pytest.fixture
def base(store):
    opened = Database(store.path)
    yield opened
    opened.close()


def refresh(copy, base):
    with base.reading() as connection:
        return copy.refresh(connection)


def test_the_copy_follows_the_database(store, base, monkeypatch):
    monkeypatch.setattr(memory, "_BATCH", 4)
    copy = memory.Memory(DIM, "f32", None)
    assert refresh(copy, base)
    assert copy.numbers.tolist() == list(range(1, 10))
    assert not refresh(copy, base)
    store.upsert([item("3", 0, 0, 1), item("x", 0, 0, 0, 1)])
    store.delete(["0"])
    assert refresh(copy, base)
    assert copy.numbers.tolist() == list(range(1, 12))
    rows, _ = copy.search(np.eye(DIM, dtype=np.float32), 10, None)
    assert sorted(rows[0]) == [-1, 1, 2, 4, 5, 6, 7, 8, 9, 10]
    assert rows[3, 0] == copy.rows_of(np.array([11]))[0]


def test_an_emptied_store_can_be_filled_again(store, base):
    copy = memory.Memory(DIM, "f32", None)
    refresh(copy, base)
    store.delete([str(i) for i in range(9)])
    refresh(copy, base)
    rows, _ = copy.search(vector(1).embedding[None], 5, None)
    assert (rows == -1).all()
    store.upsert([item("new", 1)])
    refresh(copy, base)
    rows, cosines = copy.search(vector(1).embedding[None], 1, None)
    assert copy.numbers[rows[0, 0]] == 10
    assert cosines[0, 0] == pytest.approx(1)


def test_an_interrupted_load_starts_again(store, base, monkeypatch):
    monkeypatch.setattr(memory, "_BATCH", 4)
    copy = memory.Memory(DIM, "f32", None)
    read = memory.encoding.decode

    def interrupted(*given):
        if len(copy):
            raise KeyboardInterrupt
        return read(*given)

    monkeypatch.setattr(memory.encoding, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        refresh(copy, base)
    monkeypatch.setattr(memory.encoding, "decode", read)
    store.delete(["0"])
    assert refresh(copy, base)
    rows, _ = copy.search(np.eye(DIM, dtype=np.float32), 10, None)
    found = copy.numbers[rows[0][rows[0] >= 0]]
    assert sorted(found) == list(range(2, 10))
