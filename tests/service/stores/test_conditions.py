"""Filters on fields, applied to a table of items."""

import json
import sqlite3

import numpy as np
import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.service.stores import conditions

KINDS = {
    "brand": "text",
    "price": "number",
    "new": "flag",
    "a'); DROP TABLE items; --": "text",
    "a.b[0] $": "text",
}
ITEMS = [
    {"brand": "acme", "price": 1, "new": True},
    {"brand": "zen", "price": 2.5, "new": False},
    {"brand": "it's", "a'); DROP TABLE items; --": "x", "a.b[0] $": "y"},
    {"price": 10, "brand": "é"},
]


@pytest.fixture
def find():
    """A function that maps a filter to the numbers of the matching items."""
    with sqlite3.connect(":memory:") as base:
        base.execute('CREATE TABLE items (fields, "group", category)')
        base.executemany(
            "INSERT INTO items VALUES (?, ?, ?)",
            [(json.dumps(f), "g" * (i == 1), "") for i, f in enumerate(ITEMS)],
        )

        def select(where):
            term, parameters = conditions.sql(where, KINDS)
            rows = base.execute(
                f"SELECT rowid - 1 FROM items WHERE {term}", parameters
            )
            return [row[0] for row in rows]

        yield select
    base.close()


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ({}, [0, 1, 2, 3]),
        ({"brand": "acme"}, [0]),
        ({"brand": "ACME"}, []),
        ({"brand": ["zen", "it's", "no"]}, [1, 2]),
        ({"brand": ("é",)}, [3]),
        ({"brand": {"acme", "zen"}}, [0, 1]),
        ({"brand": np.array(["acme"])}, [0]),
        ({"price": {"min": np.float32(2.5), "max": np.int64(9)}}, [1]),
        ({"new": np.bool_(True)}, [0]),
        ({"brand": []}, []),
        ({"price": 1.0}, [0]),
        ({"price": [1, 10]}, [0, 3]),
        ({"price": {"min": 1, "max": 2.5}}, [0, 1]),
        ({"price": {"min": 2}}, [1, 3]),
        ({"price": {"max": 0}}, []),
        ({"brand": {"min": "b", "max": "k"}}, [2]),
        ({"new": True}, [0]),
        ({"new": [False]}, [1]),
        ({"new": [True, False], "price": {"min": 2}}, [1]),
        ({"group": "g"}, [1]),
        ({"category": ""}, []),
        ({"brand": "' OR 1=1 --"}, []),
        ({"a'); DROP TABLE items; --": "x"}, [2]),
        ({"a.b[0] $": "y"}, [2]),
    ],
)
def test_items_are_selected(find, where, found):
    assert find(where) == found


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"brnad": "a"}, "no field 'brnad'; did you mean 'brand'"),
        ({"price": "1"}, "'price' is a number; it cannot be compared with '1'"),
        ({"price": True}, "cannot be compared with True"),
        ({"price": [1, "2"]}, "cannot be compared with '2'"),
        ({"price": {"min": "1"}}, "cannot be compared with '1'"),
        ({"price": {"mn": 1}}, "has the end 'mn'; did you mean 'min'"),
        ({"price": {}}, 'a range has "min"'),
        ({"new": {"min": False}}, "cannot have a range"),
        ({"brand": None}, "cannot be compared with None"),
        ({"brand": "acme\0"}, "null character"),
        ({"brand": ["\ud800"]}, "lone surrogate"),
        ("brand", "where has type str"),
    ],
)
def test_invalid_conditions_are_rejected(where, message):
    with pytest.raises(UserError, match=message):
        conditions.sql(where, KINDS)
