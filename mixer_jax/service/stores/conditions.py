"""Filters: conditions on items' fields, and their translation to SQL.

    {"brand": "acme"}                     equal
    {"brand": ["acme", "zenith"]}         any of these
    {"price": {"min": 1, "max": 5}}       a range; either end may be missing

All conditions must hold. An item without the field never matches.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import did_you_mean, quoted
from mixer_jax.service.stores import fields
from mixer_jax.service.stores.interface import Value

ENDS = {"min": ">=", "max": "<="}  # the ends of a range, and their operators
_COLUMNS = {"group": '"group"', "category": "category"}


class Condition(NamedTuple):
    """A condition on one field.

    Attributes:
      field: the name of the field.
      values: the field has one of these; None for a range.
      ends: the ends of a range, "min" and "max"; {} if there are values.
    """

    field: str
    values: tuple[Value, ...] | None
    ends: Mapping[str, Value]


def parse(
    where: Mapping[str, Any], declared: Mapping[str, str]
) -> list[Condition]:
    """Returns checked conditions.

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
    return [
        _parse(name, condition, fields.find(name, declared))
        for name, condition in where.items()
    ]


def _parse(name: str, condition: Any, kind: str) -> Condition:
    if isinstance(condition, Mapping):
        return Condition(name, None, _range(name, condition, kind))
    if isinstance(condition, Collection) and not isinstance(condition, str):
        values = [_check(name, one, kind) for one in condition]
        return Condition(name, tuple(values), {})
    return Condition(name, (_check(name, condition, kind),), {})


def _range(name: str, ends: Mapping[str, Any], kind: str) -> dict[str, Value]:
    unknown = [end for end in ends if end not in ENDS]
    if unknown or not ends:
        end = unknown[0] if unknown else ""
        hint = did_you_mean(str(end), ENDS) or ";"
        raise UserError(
            f"The range of field {name!r} has the end {quoted(end)}{hint} a "
            'range has "min", "max" or both, as in {"min": 1, "max": 5}.'
        )
    if kind == fields.FLAG:
        raise UserError(f"Field {name!r} is a flag; it cannot have a range.")
    return {end: _check(name, one, kind) for end, one in ends.items()}


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


def sql(
    where: Mapping[str, Any], declared: Mapping[str, str]
) -> tuple[str, list[Any]]:
    """Returns a condition on rows of the table `items`, and its parameters.

    Raises:
      UserError: see `parse`.
    """
    terms, parameters = ["1"], []
    for condition in parse(where, declared):
        value, path = value_of(condition.field, declared)
        if condition.values is None:
            for end, limit in condition.ends.items():
                terms.append(f"{value} {ENDS[end]} ?")
                parameters += [*path, limit]
        else:
            # As JSON, because the number of parameters is limited.
            terms.append(f"{value} IN (SELECT value FROM json_each(?))")
            parameters += [*path, json.dumps(condition.values)]
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
