"""Filters as expressions, evaluated by Milvus Lite."""

import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.service.stores import place
from mixer_jax.service.stores.milvus import expressions
from tests.service.stores.items import found, item
from tests.service.stores.test_conditions import ITEMS, KINDS, SELECTED


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("expressions") / "index.db"
    properties = {"dim": 4, "storage": "f32", "fingerprint": ""}
    with place.find(path).draft(properties | {"fields": KINDS}) as made:
        given = [
            item(f"{i}", 1, i, fields=fields, group="g" * (i == 1))
            for i, fields in enumerate(ITEMS)
        ]
        made.upsert(given)
        yield made


@pytest.mark.parametrize(("where", "expected"), SELECTED)
def test_items_are_selected(store, where, expected):
    assert [int(id) for id in found(store, 1, where=where)] == expected


@pytest.mark.parametrize(
    "text", ["'", '"', "\\", 'a"\\n', "line\nbreak\ttab\r", "é日", "x' or 1"]
)
def test_any_text_can_be_compared(store, text):
    store.upsert([item("text", 1, 9, fields={"brand": text})])
    assert found(store, 1, where={"brand": text}) == ["text"]
    assert "text" not in found(store, 1, without="text")
    store.delete(["text"])


def test_values_are_left_out(store):
    term = expressions.other_value("brand", "acme")
    assert store._rows.count(term) == 3
    term = expressions.other_value("new", True)
    assert store._rows.count(term) == 3
    assert store._rows.count(expressions.other_value("group", "g")) == 3
    assert store._rows.count(expressions.other_items(["0", "3"])) == 2
    both = expressions.all_of([term, expressions.other_items(["1"]), ""])
    assert store._rows.count(both) == 2
    assert expressions.all_of([]) == ""


def test_invalid_conditions_are_rejected(store):
    with pytest.raises(UserError, match="did you mean 'brand'"):
        found(store, 1, where={"brnad": "a"})
