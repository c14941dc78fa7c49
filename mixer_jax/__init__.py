"""Image to multi-modal retrieval: from click logs to ranked documents.

    import mixer_jax

    model = mixer_jax.load("runs/quickstart")
    queries = model.embed_queries(["photo.jpg"])
    documents = model.embed_documents(["shoe.jpg", None], [None, "a red shoe"])
    cosines = queries @ documents.T

    index = mixer_jax.open_index("shop", model)
    index.upsert(["1"], images=["shoe.jpg"], fields=[{"brand": "acme"}])
    hits = index.search("photo.jpg", k=10, where={"brand": "acme"})

Public names are imported on first use, so that importing the package is fast
and initializes no device.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixer_jax.api import find_categories, train
    from mixer_jax.retrieval.model import Model, load
    from mixer_jax.retrieval.zero_shot import from_encoders
    from mixer_jax.runtime.errors import UserError
    from mixer_jax.service.items import Hit, Index
    from mixer_jax.service.opening import open_index

# `sys.argv` is ["-m"] while Python locates the module of `python -m`. From here
# on, signals interrupt a command of this package.
if sys.argv[:1] == ["-m"]:
    from mixer_jax.runtime import command

    command.catch_early()
    del command

# The module of each public name.
_MODULES = {
    "Hit": "mixer_jax.service.items",
    "Index": "mixer_jax.service.items",
    "Model": "mixer_jax.retrieval.model",
    "UserError": "mixer_jax.runtime.errors",
    "find_categories": "mixer_jax.api",
    "from_encoders": "mixer_jax.retrieval.zero_shot",
    "load": "mixer_jax.retrieval.model",
    "open_index": "mixer_jax.service.opening",
    "train": "mixer_jax.api",
}
__all__ = [
    "Hit",
    "Index",
    "Model",
    "UserError",
    "find_categories",
    "from_encoders",
    "load",
    "open_index",
    "train",
]


if not TYPE_CHECKING:  # With __getattr__, type checkers accept any name.

    def __getattr__(name: str) -> Any:
        """Imports a public name on first use."""
        if name not in _MODULES:
            raise AttributeError(
                f"module {__name__!r} has no attribute {name!r}"
            )
        value = getattr(importlib.import_module(_MODULES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
