import numpy as np
import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.service.stores import fields

KINDS = {"brand": "text", "price": "number", "new": "flag"}


def test_declarations_are_parsed():
    assert fields.parse("brand,price:number,new:flag") == KINDS
    for text, message in (
        ("price:numbr", "did you mean 'number'"),
        ("a,,b", "cannot have the name ''"),
        ('a"b', "cannot have the name"),
        ("group", "which is reserved"),
        ("x" * 65, "1 to 64 characters"),
        ("x\ud800", "lone surrogates"),
    ):
        with pytest.raises(UserError, match=message):
            fields.parse(text)


def test_values_are_checked():
    given = {"brand": "acme", "price": 2, "new": True}
    assert fields.check("a", given | {"brand": None}, KINDS) == {
        "price": 2,
        "new": True,
    }
    assert fields.check("a", None, KINDS) == {}
    for large in ({"price": 1e300}, {"price": 1 - 2**63}):
        assert fields.check("a", large, KINDS) == large
    given = {"price": np.int64(2), "new": np.bool_(False)}
    values = fields.check("a", given, KINDS)
    assert list(map(type, values.values())) == [int, bool]
    for wrong, message in (
        ({"price": True}, "this field is a number"),
        ({"price": float("nan")}, "'price' of item 'a' is nan"),
        ({"price": 2**63}, "this field is a number"),
        ({"price": -(10**400)}, "this field is a number"),
        ({"new": 1}, "this field is a flag"),
        ({"brand": ["a"]}, "this field is a text"),
        ({"pricee": 1}, "unknown field 'pricee'; did you mean 'price'"),
        ({"group": "a"}, "unknown field 'group'"),
    ):
        with pytest.raises(UserError, match=message):
            fields.check("a", wrong, KINDS)


def test_cells_are_read():
    for cell, kind, value in (
        ("1.50", "number", 1.5),
        ("1.0", "number", 1),
        ("1e300", "number", 1e300),
        ("1.50", "text", "1.50"),
        ("TRUE", "flag", True),
        ("0", "flag", False),
        ("", "number", None),
    ):
        read = fields.read(cell, "x", kind, "t.csv, line 2")
        assert read == value
        assert read is None or fields.kind_of(read) == kind
    for cell, kind in (("a", "number"), ("inf", "number"), ("2", "flag")):
        with pytest.raises(UserError, match=r"^t\.csv, line 2, column x: "):
            fields.read(cell, "x", kind, "t.csv, line 2")


def test_unknown_names_get_a_hint():
    assert fields.find("group", KINDS) == "text"
    with pytest.raises(
        UserError, match=r"'Brand '; did you mean 'brand'\? The"
    ):
        fields.find("Brand ", KINDS)
