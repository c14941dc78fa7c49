"""Fields: typed values of items, declared before items can have them.

The kinds are text (a string), number (finite) and flag (true or false). Every
item has the text fields `group` and `category`.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import did_you_mean, listing, quoted
from mixer_jax.service.stores.interface import Value

TEXT, NUMBER, FLAG = "text", "number", "flag"
KINDS = (TEXT, NUMBER, FLAG)
BUILT_IN = {"group": TEXT, "category": TEXT}
# Other properties of items, and columns of tables.
_TAKEN = {*BUILT_IN, "id", "text", "score", "image", "embedding"}
_TAKEN |= {"sample_id", "item_id", "category_id", "role", "split"}
# Names become column names and parts of JSON paths, which have no escapes.
_NAME = re.compile(r'[^"\\\x00-\x1f:,]{1,64}')
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


def parse(text: str) -> dict[str, str]:
    """Returns the fields that a command line declares.

    >>> parse("brand,price:number")
    {'brand': 'text', 'price': 'number'}
    """
    pairs = [part.partition(":") for part in text.split(",")]
    return declare({name: kind or TEXT for name, _, kind in pairs})


def declare(fields: Mapping[str, str]) -> dict[str, str]:
    """Returns the given declarations after checking them.

    Raises:
      UserError: if a name or a kind is not valid.
    """
    for name, kind in fields.items():
        is_name = isinstance(name, str) and _NAME.fullmatch(name)
        if not is_name or not is_storable(name):
            raise UserError(
                f"A field cannot have the name {quoted(name)}; a name has 1 to "
                "64 characters other than quotes, colons, commas, backslashes, "
                "control characters and lone surrogates."
            )
        if name in _TAKEN:
            raise UserError(
                f"A field cannot have the name {name!r}, which is reserved; "
                "choose another name."
            )
        if kind not in KINDS:
            hint = did_you_mean(str(kind), KINDS) or "."
            raise UserError(
                f"Field {name!r} cannot have the kind {quoted(kind)}{hint} The "
                f"kinds are {', '.join(KINDS)}."
            )
    return dict(fields)


def add(
    kinds: Mapping[str, str], known: Mapping[str, str], name: str
) -> dict[str, str]:
    """Returns the known declarations, extended by new ones.

    Args:
      kinds: the new fields.
      known: the declared fields.
      name: what messages call the index.

    Raises:
      UserError: if a field is invalid or exists with another kind.
    """
    found = dict(known)
    for field, kind in declare(kinds).items():
        if found.setdefault(field, kind) != kind:
            raise UserError(
                f"Field {field!r} of the index in {name} is a {found[field]}, "
                f"not a {kind}; choose another name."
            )
    return found


def plain(value: Any) -> Any:
    """Converts a NumPy scalar to a Python one; keeps other values unchanged."""
    return value.item() if isinstance(value, np.generic) else value


def kind_of(value: Any) -> str:
    """Returns the kind of a value; "" if it cannot be that of a field."""
    value = plain(value)
    if isinstance(value, bool):
        return FLAG
    if isinstance(value, str):
        return TEXT
    if isinstance(value, int):  # SQLite has integers of 64 bits
        return NUMBER if abs(value) < 2**63 else ""
    is_number = isinstance(value, float) and math.isfinite(value)
    return NUMBER if is_number else ""


def is_storable(text: str) -> bool:
    """Returns whether SQLite can store and compare a text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def find(name: str, declared: Mapping[str, str]) -> str:
    """Returns the kind of a field.

    Raises:
      UserError: if there is no such field; suggests a similar one.
    """
    known = {**declared, **BUILT_IN}
    if name in known:
        return known[name]
    hint = did_you_mean(str(name), known) or "."
    raise UserError(
        f"There is no field {quoted(name)}{hint} The fields are "
        f"{listing(list(known))}."
    )


def check(
    id: str, given: Mapping[str, Any] | None, declared: Mapping[str, str]
) -> dict[str, Value]:
    """Returns the fields of an item that are not None.

    Raises:
      UserError: if a field is not declared or has a value of another kind.
    """
    values = {name: plain(value) for name, value in (given or {}).items()}
    values = {
        name: value for name, value in values.items() if value is not None
    }
    for name, value in values.items():
        if name in BUILT_IN or name not in declared:
            hint = did_you_mean(str(name), declared) or "."
            raise UserError(
                f"Item {quoted(id)} has the unknown field {quoted(name)}{hint} "
                f"The declared fields are {listing(list(declared)) or 'none'}."
            )
        if kind_of(value) != declared[name]:
            raise UserError(
                f"Field {name!r} of item {quoted(id)} is {quoted(value)}, but "
                f"this field is a {declared[name]}."
            )
    return values


def read(cell: str, name: str, kind: str, where: str) -> Value | None:
    """Returns the value of a table's cell; None if the cell is empty.

    Raises:
      UserError: if the cell cannot be converted; `where` names its row.
    """
    if cell == "":
        return None
    if kind == TEXT:
        return cell
    if kind == FLAG and cell.lower() in _FLAGS:
        return _FLAGS[cell.lower()]
    if kind == NUMBER:
        try:
            value = float(cell)
        except ValueError:
            value = math.nan
        if math.isfinite(value):
            is_whole = value.is_integer() and abs(value) < 2**63
            return int(value) if is_whole else value
    what = "a number" if kind == NUMBER else "true or false"
    raise UserError(
        f"{where}, column {name}: {quoted(cell)} must be {what}, as the "
        "field's kind requires."
    )
