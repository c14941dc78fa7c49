"""Options of an index in Milvus.

The kinds of an index are:

    HNSW     a graph in memory; the default
    DISKANN  a graph on the server's disk, for more vectors than fit in memory
    FLAT     no graph: every search reads all vectors, and is exact
"""

from collections.abc import Mapping
from typing import Any

from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import did_you_mean

NAMES = ("index_kind", "consistency")
INDEX_KINDS = ("HNSW", "DISKANN", "FLAT")
CONSISTENCIES = ("Strong", "Session", "Bounded", "Eventually")
_VALUES = {"index_kind": INDEX_KINDS, "consistency": CONSISTENCIES}
_DEFAULTS = {"index_kind": "HNSW", "consistency": "Strong"}
_BUILD = {"HNSW": {"M": 16, "efConstruction": 200}}
_LITE_LACKS = ("DISKANN",)
_CANDIDATES = 128  # minimum number of candidates of a graph search


def complete(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Returns properties with defaults for absent options."""
    return _DEFAULTS | dict(properties)


def check(properties: Mapping[str, Any], *, is_lite: bool) -> None:
    """Raises a `UserError` unless Milvus supports these properties.

    Args:
      properties: see `opening.describe`.
      is_lite: whether the index is in Milvus Lite.
    """
    for name, allowed in _VALUES.items():
        value = properties.get(name, _DEFAULTS[name])
        if value not in allowed:
            hint = did_you_mean(value, allowed) or ";"
            raise UserError(
                f"{name} is {value!r}{hint} it must be one of "
                f"{', '.join(allowed)}."
            )
        if is_lite and value in _LITE_LACKS:
            raise UserError(
                f"Milvus Lite has no {value} index; choose HNSW or FLAT, or "
                "name the address of a server."
            )
    if properties["storage"] != "f32":
        raise UserError(
            f"Embeddings cannot be stored as {properties['storage']} in "
            "Milvus; leave out this option to store them as f32."
        )


def index(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of pymilvus's `add_index`."""
    kind = properties["index_kind"]
    return {
        "index_type": kind,
        "metric_type": "COSINE",
        "params": _BUILD.get(kind, {}),
    }


def search(properties: Mapping[str, Any], limit: int) -> dict[str, Any]:
    """Returns the parameters of a search for `limit` vectors."""
    count = max(2 * limit, _CANDIDATES)
    names = {"HNSW": "ef", "DISKANN": "search_list"}
    name = names.get(properties["index_kind"])
    return {"params": {name: count} if name else {}}
