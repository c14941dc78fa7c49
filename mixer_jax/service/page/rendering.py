"""Renders the search page, with its style sheet and scripts in one response.

A single response works behind a proxy under any prefix, with or without a
trailing slash, and never mixes versions. The content security policy allows
only these scripts and styles, by their digests, and no other host.
"""

import base64
import functools
import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import NamedTuple

import jinja2

from mixer_jax.runtime.text import counted
from mixer_jax.service.batches.generations import MAX_K, Generation
from mixer_jax.service.http.parameters import DEFAULT_K, MAX_OFFSET, MAX_TEXT
from mixer_jax.service.http.settings import Settings
from mixer_jax.service.http.uploads import MEGABYTE
from mixer_jax.service.stores import fields

# In the order of their execution; they share one scope.
SCRIPTS = ("service", "crop", "filters", "why", "page")
_COUNTS = (DEFAULT_K, 24, 48, min(MAX_K, 96))  # choices of the number of items
_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http:%2F%2Fwww.w3.org/2000/svg' "
    "viewBox='0 0 32 32' fill='none' stroke='white' stroke-width='2.8' "
    "stroke-linecap='round'%3E%3Crect width='32' height='32' rx='9' "
    "fill='%233346cf' stroke='none'/%3E%3Ccircle cx='14' cy='14' r='6.5'/%3E"
    "%3Cpath d='m19 19 5.5 5.5'/%3E%3C/svg%3E"
)


class _Parts(NamedTuple):
    page: jinja2.Template
    style: str
    scripts: Sequence[str]
    policy: str


def render(generation: Generation, settings: Settings) -> str:
    """Returns the page.

    Args:
      generation: the index that the page searches.
      settings: the options of the service.
    """
    store, model = generation.index.store, generation.index.model
    limit_text = f"{settings.max_megabytes:g} MB"
    options = {
        "count": store.count(),
        "fields": {**fields.BUILT_IN, **store.fields},
        "records": settings.recorder is not None,
        "limit": int(settings.max_megabytes * MEGABYTE),
        "limit_text": limit_text,
        "default_k": DEFAULT_K,
        "max_offset": MAX_OFFSET,
        "max_text": MAX_TEXT,
    }
    parts = _parts()
    return parts.page.render(
        options=options,
        items=counted(options["count"], "item"),
        counts=_COUNTS,
        step=model.step,
        has_text=not model.ignores_text,
        limit_text=limit_text,
        icon=_ICON,
        style=parts.style,
        scripts=parts.scripts,
    )


def headers() -> dict[str, str]:
    """Returns the headers of the page's response."""
    return {
        "Content-Security-Policy": _parts().policy,
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


@functools.cache
def _parts() -> _Parts:
    style = _read("page.css")
    scripts = [_read(f"{name}.js") for name in SCRIPTS]
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # The order of the fields is kept.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    page = environment.from_string(_read("page.html"))
    return _Parts(page, style, scripts, _policy(style, scripts))


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def _policy(style: str, scripts: Sequence[str]) -> str:
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {' '.join(map(_digest, scripts))}",
            f"style-src {_digest(style)}",
            "img-src 'self' blob: data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'self'",
        )
    )


def _digest(text: str) -> str:
    """Returns the source expression of an inline script or style."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
