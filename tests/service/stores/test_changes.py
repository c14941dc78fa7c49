import numpy as np
import pytest

from mixer_jax.runtime.errors import PassingError
from mixer_jax.service.stores import changes, reading
from mixer_jax.service.stores.interface import Item
from tests.service.stores import items
from tests.service.stores.items import DIM, item, vector

KINDS = items.PROPERTIES["fields"]


@pytest.fixture
def connection(tmp_path):
    with (
        items.make(tmp_path / "index", item("a", (1, 0), (0, 1))) as store,
        store._database.writing() as opened,
    ):
        yield opened


def numbers(connection):
    rows = connection.execute("SELECT number FROM vectors ORDER BY number")
    return [number for (number,) in rows]


def upsert(connection, *given):
    checked = changes.check(given, KINDS, DIM)
    return changes.upsert(connection, checked, "f32").count


def test_the_last_of_equal_ids_counts():
    first, last = item("a", 1), item("a", 2, fields={"price": 1, "new": None})
    (found,) = changes.check([first, item("a", 5), last], KINDS, DIM)
    assert found.vectors == last.vectors
    assert found.fields == {"price": 1}


def test_unchanged_vectors_keep_their_numbers(connection):
    assert numbers(connection) == [1, 2]
    assert upsert(connection, item("a", (1, 0), (0, 1), text="new")) == 0
    assert numbers(connection) == [1, 2]
    assert upsert(connection, item("a", (0, 1), (0, 0, 1))) == 1
    assert numbers(connection) == [2, 3]
    assert upsert(connection, item("b", 1), item("a", 0, 1)) == 1
    assert numbers(connection) == [2, 4]
    assert changes.delete(connection, ["a", "none"]) == 1
    assert numbers(connection) == [4]


def test_vectors_stay_in_the_given_order(connection):
    for given in (
        [(0, 0, 1), (0, 1)],  # the last vector was already stored
        [(0, 1), (0, 0, 1)],
        [(1, 0), (0, 0, 1), (0, 1)],
    ):
        upsert(connection, item("a", *given))
        found = reading.items(
            connection, ["a"], lambda b: np.frombuffer(b, "<f4")
        )
        stored = np.stack([one.embedding for one in found["a"].vectors])
        expected = [(*one, 0)[:3] for one in given]
        np.testing.assert_array_equal(stored[:, :3], expected)


def test_an_unchanged_item_is_not_written(connection):
    before = connection.total_changes
    upsert(connection, item("a", (1, 0), (0, 1)))
    assert connection.total_changes == before


def test_embeddings_are_stored_as_unit_rows(connection):
    upsert(connection, item("b", 3, 4))
    found = reading.items(connection, ["b"], lambda b: np.frombuffer(b, "<f4"))
    np.testing.assert_allclose(found["b"].vectors[0].embedding[:2], [0.6, 0.8])


def test_a_vector_without_an_embedding_must_be_stored(connection):
    kept = vector(1)._replace(embedding=None)
    assert upsert(connection, Item("a", (kept,))) == 0
    with pytest.raises(
        PassingError, match="'b' was changed by another process"
    ):
        upsert(connection, Item("b", (kept,)))
