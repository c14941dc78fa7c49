"""Filters: conditions on items' fields, turned into SQL.

    {"brand": "acme"}                     equal
    {"brand": ["acme", "zenith"]}         any of these
    {"price": {"min": 1, "max": 5}}       a range, either end may be missing

All conditions must hold. An item without the field never matches.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any

from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import did_you_mean, quoted
from mixer_jax.service.stores import fields

_ENDS = {"min": ">=", "max": "<="}
_COLUMNS = {"group": '"group"', "category": "category"}


def sql(
    where: Mapping[str, Any], declared: Mapping[str, str]
) -> tuple[str, list[Any]]:
    """Returns a condition on rows of the table `items`, and its parameters.

    Args:
      where: the conditions by field, as above.
      declared: the kinds of the fields.

    Raises:
      UserError: if a field is unknown or a value is of another kind.
    """
    if not isinstance(where, Mapping):
        raise UserError(
            f"where has type {type(where).__name__}; it must map fields to "
            'conditions, as in {"brand": "acme"}.'
        )
    terms, parameters = ["1"], []
    for name, condition in where.items():
        value, path = value_of(name, declared)
        term, more = _term(value, name, condition, fields.find(name, declared))
        terms.append(term)
        parameters += [part for one in more for part in (*path, one)]
    return " AND ".join(terms), parameters


def value_of(name: str, declared: Mapping[str, str]) -> tuple[str, list[str]]:
    """Returns the SQL of a field's value, and its parameters.

    Raises:
      UserError: if there is no such field.
    """
    fields.find(name, declared)
    if name in _COLUMNS:
        return f"nullif({_COLUMNS[name]}, '')", []
    return "json_extract(fields, ?)", [f'$."{name}"']


def _term(
    value: str, name: str, condition: Any, kind: str
) -> tuple[str, list[Any]]:
    """Returns the SQL of one condition, and a parameter per use of `value`."""
    if isinstance(condition, Mapping):
        return _range(value, name, condition, kind)
    if isinstance(condition, Collection) and not isinstance(condition, str):
        # As JSON, because the number of parameters is limited.
        text = json.dumps([_check(name, one, kind) for one in condition])
        return f"{value} IN (SELECT value FROM json_each(?))", [text]
    return f"{value} = ?", [_check(name, condition, kind)]


def _range(
    value: str, name: str, ends: Mapping[str, Any], kind: str
) -> tuple[str, list[Any]]:
    unknown = [end for end in ends if end not in _ENDS]
    if unknown or not ends:
        end = unknown[0] if unknown else ""
        hint = did_you_mean(str(end), _ENDS) or ";"
        raise UserError(
            f"The range of field {name!r} has the end {quoted(end)}{hint} a "
            'range has "min", "max" or both, as in {"min": 1, "max": 5}.'
        )
    if kind == fields.FLAG:
        raise UserError(f"Field {name!r} is a flag; it cannot have a range.")
    terms = [f"{value} {_ENDS[end]} ?" for end in ends]
    limits = [_check(name, one, kind) for one in ends.values()]
    return " AND ".join(terms), limits


def _check(name: str, value: Any, kind: str) -> Any:
    """Returns a value; raises a `UserError` if it is of another kind."""
    value = fields.plain(value)
    if fields.kind_of(value) != kind:
        raise UserError(
            f"Field {name!r} is a {kind}; it cannot be compared with "
            f"{quoted(value)}."
        )
    if kind == fields.TEXT and not fields.is_storable(value):
        raise UserError(
            f"Field {name!r} cannot be compared with {quoted(value)}, which "
            "has a null character or a lone surrogate."
        )
    return value
