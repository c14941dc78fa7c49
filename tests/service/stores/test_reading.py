import numpy as np
import pytest

from mixer_jax.service.stores import reading
from tests.service.stores import items
from tests.service.stores.items import item


@pytest.fixture
def connection(tmp_path):
    given = [item(id, 1, i, text=id) for i, id in enumerate(["b", "a", "é"])]
    with (
        items.make(tmp_path / "index", *given) as store,
        store._database.reading() as opened,
    ):
        yield opened


def test_ids_are_listed_in_order(connection):
    assert reading.ids_after(connection, "", 2) == ["a", "b"]
    assert reading.ids_after(connection, "b", 2) == ["é"]
    assert reading.ids_after(connection, "é", 2) == []


def test_only_existing_items_are_returned(connection):
    found = reading.items(connection, ["é", "no"], np.frombuffer)
    assert list(found) == ["é"]
    assert reading.contents(connection, ["no"]) == {}
    assert reading.rows(connection, ["a"])["a"] == (2, "a", "", "", "{}")
    many = [str(i) for i in range(100_000)]
    assert reading.rows(connection, many) == {}


def test_ids_are_looked_up(connection):
    assert reading.existing(connection, ["é", "no", "b", "b\0"]) == {"é", "b"}
    assert reading.numbers(connection, "a") == [2]
    assert reading.numbers(connection, "no") == []


def test_vectors_without_a_thumbnail_are_listed(connection):
    found = reading.without_thumbnail(connection, 1, 1)
    assert [(one.number, one.id, one.text) for one in found] == [(2, "a", "a")]
    assert reading.without_thumbnail(connection, 3, 1) == []


def test_hits_keep_the_order_of_each_query(connection):
    given = [[(3, 0.9), (1, 0.5)], [], [(1, 0.7)]]
    found = reading.hits(connection, given)
    names = [[(hit.id, hit.score) for hit in one] for one in found]
    assert names == [[("é", 0.9), ("b", 0.5)], [], [("b", 0.7)]]


def test_missing_properties_have_a_default(connection):
    assert reading.stored_value(connection, "dim", 0) == items.DIM
    assert reading.stored_value(connection, "nothing", 7) == 7
    assert reading.loss(connection).count == 3
