"""Renders page templates to self-contained HTML."""

from importlib import resources
from typing import Any

import jinja2
import markupsafe

from mixer_jax.runtime.text import printable


def render(name: str, **values: Any) -> str:
    """Returns a page.

    Args:
      name: the name of the template, a file of this package.
      **values: the values of the template; all strings are escaped.

    Raises:
      jinja2.UndefinedError: if the template needs another value.
    """
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read),
        autoescape=True,
        finalize=_shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css = markupsafe.Markup(_read("page.css"))
    return environment.get_template(name).render(css=css, **values)


def _shown(value: Any) -> Any:
    """Escapes characters of a string that cannot be encoded as UTF-8."""
    return printable(value) if type(value) is str else value


def _read(name: str) -> str:
    here = resources.files(__package__)
    return here.joinpath(name).read_text(encoding="utf-8")
