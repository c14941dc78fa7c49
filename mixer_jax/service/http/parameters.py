"""Search parameters from a URL, a form or a JSON body."""

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from starlette.exceptions import HTTPException

from mixer_jax.runtime.text import did_you_mean, quoted
from mixer_jax.service.batches.generations import MAX_K
from mixer_jax.service.batches.searching import Options

DEFAULT_K, MAX_OFFSET, MAX_TEXT = 12, 10_000, 10_000
MAX_QUERIES = 16  # per request
MAX_WHERE = 100_000  # characters, as JSON
_MAX_SIDE = 999_999_999  # pixels, as in `data.images.crops`
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_DATA_URL = re.compile(r"data:[^,]{0,200},")


class Parameter(NamedTuple):
    """A parameter of a search.

    Attributes:
      schema: its JSON schema.
      in_text: whether a URL or a form can give it.
    """

    schema: Mapping[str, Any]
    in_text: bool = True


def _whole(minimum: int, maximum: int, text: str, **more: Any) -> Parameter:
    limits = {"minimum": minimum, "maximum": maximum}
    return Parameter({"type": "integer", **limits, "description": text} | more)


def _number(minimum: int, maximum: int, text: str) -> Parameter:
    return _whole(minimum, maximum, text, type="number")


def _text(text: str, maximum: int = MAX_TEXT, in_text: bool = True):
    limits = {"minLength": 1, "maxLength": maximum}
    return Parameter({"type": "string", **limits, "description": text}, in_text)


PARAMETERS: dict[str, Parameter] = {
    "image": Parameter(
        {
            "type": "string",
            "minLength": 1,
            "description": "a picture in base64, or a data: URL",
        },
        in_text=False,
    ),
    "text": _text("a text, alone or together with a picture"),
    "id": _text("the ID of an item, to find items like it"),
    "vector": Parameter(
        {
            "type": "array",
            "items": {"type": "number"},
            "minItems": 1,
            "maxItems": 65_536,
            "description": "an embedding",
        },
        in_text=False,
    ),
    "box": Parameter(
        {
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": _MAX_SIDE},
            "minItems": 4,
            "maxItems": 4,
            "description": "the part of the picture to search for: x1, y1, x2, "
            "y2 in pixels",
        }
    ),
    "k": _whole(1, MAX_K, "the number of items", default=DEFAULT_K),
    "offset": _whole(0, MAX_OFFSET, "nearest items to leave out", default=0),
    "where": Parameter(
        {
            "type": "object",
            "description": "conditions on fields: a value, a list of values, "
            'or {"min": 1, "max": 5}',
        }
    ),
    "min_score": _number(-1, 1, "the minimum cosine"),
    "min_probability": _number(0, 1, "the minimum probability"),
    "group_by": _text("a field; keep only the nearest item of each value", 64),
}


class Search(NamedTuple):
    """A checked search.

    Attributes:
      image: the bytes of a picture; b"" for none.
      box: the part of the picture, as in `data.images.crops`; "" for all.
      text: a text; "" for none.
      id: the ID of an item; "" for none.
      vector: f32 `[D]`, or None.
      options: what to return.
    """

    image: bytes
    box: str
    text: str
    id: str
    vector: np.ndarray | None
    options: Options


def from_texts(pairs: Sequence[tuple[str, str]], source: str) -> dict[str, Any]:
    """Returns the parameters of a URL or a form.

    Args:
      pairs: names and values.
      source: "The URL" or "The form", for messages.

    Raises:
      HTTPException: 400 if one is unknown, repeated or cannot be parsed.
    """
    known = [name for name, one in PARAMETERS.items() if one.in_text]
    found: dict[str, Any] = {}
    for name, text in pairs:
        if name not in known:
            raise bad(
                f"{source} has the parameter {name[:20]!r}, which is not "
                f"supported{did_you_mean(name[:20], known) or '.'} The "
                f"parameters are {', '.join(known)}; send a picture as a file, "
                "as curl -F file=@picture does."
            )
        if name in found:
            raise bad(f"{source} has more than one {name}; give only one.")
        found[name] = _convert(name, text)
    return found


def merge(*sources: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters of all sources.

    Raises:
      HTTPException: 400 if two sources give the same parameter.
    """
    merged: dict[str, Any] = {}
    for one in sources:
        if both := merged.keys() & one.keys():
            name = min(both)
            raise bad(
                f"Both the URL and the body have {_article(name)}; give only "
                "one."
            )
        merged |= one
    return merged


def check(given: Mapping[str, Any], image: bytes = b"") -> Search:
    """Returns a checked search.

    Args:
      given: parameters by name.
      image: the bytes of a picture sent as a file; b"" for none.

    Raises:
      HTTPException: 400 naming what is wrong.
    """
    given = {name: one for name, one in given.items() if one is not None}
    for name, value in given.items():
        if name not in PARAMETERS:
            hint = did_you_mean(str(name)[:20], PARAMETERS) or "."
            raise bad(
                f"The request has the unknown key {str(name)[:20]!r}{hint} "
                f"The keys are {', '.join(PARAMETERS)}."
            )
        _check(name, value)
    if "image" in given:
        if image:
            raise bad("The request has two pictures; send only one.")
        image = decode_image(given["image"], "image")
    _check_sources(given, image)
    vector = given.get("vector")
    return Search(
        image,
        _box(given.get("box"), image),
        given.get("text", ""),
        given.get("id", ""),
        None if vector is None else np.array(vector, np.float32),
        _options(given),
    )


def _options(given: Mapping[str, Any]) -> Options:
    where = given.get("where")
    return Options(
        k=int(given.get("k", DEFAULT_K)),
        offset=int(given.get("offset", 0)),
        where=where or None,
        min_score=given.get("min_score"),
        group_by=given.get("group_by"),
        min_probability=given.get("min_probability"),
        is_calibrated=not given.keys() & {"text", "id"},
    )


def _check_sources(given: Mapping[str, Any], image: bytes) -> None:
    alone = [name for name in ("id", "vector") if name in given]
    others = [name for name in ("text",) if name in given]
    others += ["image"] if image else []
    if len(alone + others) > 1 and alone:
        raise bad(
            f"The request has {alone[0]} and {(alone[1:] + others)[0]}; search "
            "by one of them. Only a picture and a text can be combined."
        )
    if not alone and not others:
        raise bad(
            "The request is empty; send the bytes of a picture, or a text, an "
            "id or a vector."
        )
    if "text" in given and not given["text"].strip():
        raise bad("text is blank; leave it out or say what to search for.")


def _box(corners: Sequence[int] | None, image: bytes) -> str:
    if corners is None:
        return ""
    if not image:
        raise bad("A box needs a picture; send one or leave out box.")
    x1, y1, x2, y2 = map(int, corners)
    if x1 >= x2 or y1 >= y2:
        raise bad(
            f"box is {list(corners)}; it must be [x1, y1, x2, y2] with x1 < x2 "
            "and y1 < y2."
        )
    return f"{x1},{y1},{x2},{y2}"


def decode_image(text: Any, name: str) -> bytes:
    """Returns the bytes of a picture in base64 or a data: URL.

    Raises:
      HTTPException: 400 if it is neither.
    """
    if not isinstance(text, str):
        raise bad(f"{name} is {_kind(text)}; send a picture in base64.")
    if text[:8].lower().startswith(("http:", "https:/")):
        raise bad(
            f"{name} is an address, which the server does not fetch; send the "
            "picture itself in base64."
        )
    if found := _DATA_URL.match(text):
        if not found[0].lower().endswith(";base64,"):
            raise bad(f"{name} is a data: URL that is not in base64.")
        text = text[found.end() :]
    plain = text.replace("-", "+").replace("_", "/")
    plain = re.sub(r"\s+", "", plain).rstrip("=")
    try:
        content = base64.b64decode(plain + "=" * (-len(plain) % 4), None, True)
    except (binascii.Error, ValueError) as error:
        raise bad(
            f"{name} is not base64; encode the bytes of a picture, as `base64 "
            "-w0 picture.png` does."
        ) from error
    if not content:
        raise bad(f"{name} is empty; send a picture in base64.")
    return content


def bad(message: str) -> HTTPException:
    """Returns the error for an invalid request."""
    return HTTPException(400, message)


def _convert(name: str, text: str) -> Any:
    """Returns the value of a parameter given as text."""
    kind = PARAMETERS[name].schema["type"]
    plain = text.strip()
    if kind == "string":
        return text
    if kind == "integer":
        # int() would also accept 1_0 and digits from other scripts.
        if re.fullmatch("[0-9]{1,9}", plain):
            return int(plain)
        raise bad(f"{name} is {text[:20]!r}; {_rule(name)}.")
    if kind == "number":
        if re.fullmatch(
            r"[+-]?([0-9]{1,9}\.?[0-9]{0,20}|\.[0-9]{1,20})", plain
        ):
            return float(plain)
        raise bad(f"{name} is {text[:20]!r}; {_rule(name)}.")
    if kind == "array":
        parts = [part.strip() for part in plain.strip("[]").split(",")]
        if all(re.fullmatch("[0-9]{1,9}", part) for part in parts):
            return list(map(int, parts))
        raise bad(f"{name} is {text[:40]!r}; {_rule(name)}.")
    return read_json(text.encode(), name)


def read_json(content: bytes, name: str) -> dict[str, Any]:
    """Returns a JSON object.

    Args:
      content: the text.
      name: what it is, for messages.

    Raises:
      HTTPException: 400 if it is not a JSON object.
    """
    try:
        # Given bytes, `loads` would also decode UTF-16 and lone surrogates.
        value = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise bad(f"{name} is not valid UTF-8; send JSON in UTF-8.") from error
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, json.JSONDecodeError) else ""
        raise bad(
            f"{name} is not valid JSON{': ' if reason else ''}{reason}."
        ) from error
    if not isinstance(value, dict):
        raise bad(f"{name} is {_kind(value)}, not a JSON object.")
    if _SURROGATE.search(content):
        try:
            _as_json(value, name).encode()
        except UnicodeEncodeError as error:
            raise bad(f"{name} has a lone surrogate; send UTF-8.") from error
    return value


def _as_json(value: Any, name: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError as error:
        raise bad(f"{name} is nested too deeply.") from error


def _check(name: str, value: Any) -> None:
    schema = PARAMETERS[name].schema
    if not _fits(value, schema):
        shown = quoted(value) if name != "image" else _kind(value)
        raise bad(f"{name} is {shown[:300]}; {_rule(name)}.")
    # The search thread checks and caches conditions, so limit their size.
    if name == "where" and len(_as_json(value, name)) > MAX_WHERE:
        raise bad(f"where must have at most {MAX_WHERE:,} characters as JSON.")


def _fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Returns whether a value conforms to one of the schemas above."""
    kind = schema["type"]
    if kind == "string":
        fits = isinstance(value, str) and len(value) >= schema["minLength"]
        return fits and len(value) <= schema.get("maxLength", math.inf)
    if kind == "object":
        return isinstance(value, Mapping)
    if kind == "array":
        return (
            isinstance(value, list)
            and schema["minItems"] <= len(value) <= schema["maxItems"]
            and all(_fits(one, schema["items"]) for one in value)
        )
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    least, most = schema.get("minimum", -1e38), schema.get("maximum", 1e38)
    if not least <= value <= most:  # also rejects NaN
        return False
    return kind == "number" or value == int(value)


def _rule(name: str) -> str:
    """Returns the rule for a parameter's value."""
    schema = PARAMETERS[name].schema
    if name == "box":
        return "it must be four whole numbers, x1,y1,x2,y2, in pixels"
    if schema["type"] == "string":
        most = schema.get("maxLength")
        return "it must be a string" + (
            f" of 1 to {most:,} characters" if most else ""
        )
    if schema["type"] == "array":
        return "it must be a list of finite numbers"
    if schema["type"] == "object":
        return 'it must be a JSON object, as in {"brand": "acme"}'
    number = "a whole number" if schema["type"] == "integer" else "a number"
    return (
        f"it must be {number} from {schema['minimum']} to {schema['maximum']}"
    )


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a flag"}
    names |= {int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), "of another kind")


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeio' else 'a'} {name}"
