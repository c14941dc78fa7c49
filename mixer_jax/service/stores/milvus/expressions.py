"""Filters as Milvus's boolean expressions.

Milvus Lite supports `in` only for columns, so the values of fields, which are
in a column of JSON, are compared one by one.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from mixer_jax.service.stores import conditions, fields
from mixer_jax.service.stores.conditions import ENDS
from mixer_jax.service.stores.interface import Value

NOTHING = "place < 0"
_ESCAPES = str.maketrans(
    {"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r", "\t": r"\t"}
)


def expression(
    where: Mapping[str, Any], declared: Mapping[str, str]
) -> list[str]:
    """Returns expressions, all of which must hold.

    Args:
      where: see `conditions`.
      declared: the kinds of the fields.

    Raises:
      UserError: see `conditions.parse`.
    """
    terms = []
    for condition in conditions.parse(where, declared):
        column = name(condition.field)
        if condition.field in fields.BUILT_IN:
            terms.append(f'{column} != ""')  # "" means no value
        if condition.values is not None:
            terms.append(_any(column, condition.values))
            continue
        for end, limit in condition.ends.items():
            terms.append(f"{column} {ENDS[end]} {literal(limit)}")
    return terms


def name(field: str) -> str:
    """Returns the name of a field in expressions."""
    return field if field in fields.BUILT_IN else f"fields[{literal(field)}]"


def literal(value: Value) -> str:
    """Returns a value as it is written in expressions."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value.translate(_ESCAPES)}"'
    return repr(value)


def _any(column: str, values: Iterable[Value]) -> str:
    terms = [f"{column} == {literal(value)}" for value in values]
    return f"({' or '.join(terms)})" if terms else NOTHING


def other_items(ids: Iterable[str]) -> str:
    """Returns an expression for the rows of all other items."""
    return f"id not in [{', '.join(map(literal, ids))}]"


def other_value(field: str, value: Value) -> str:
    """Returns an expression for the rows with another value, or with none."""
    term = f"{name(field)} == {literal(value)}"
    if field not in fields.BUILT_IN:  # a comparison with null is not false
        term = f"exists {name(field)} and {term}"
    return f"not ({term})"


def all_of(terms: Iterable[str]) -> str:
    """Returns an expression for the rows that match all given ones."""
    return " and ".join(f"({term})" for term in terms if term)
