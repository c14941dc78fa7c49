"""Sphinx configuration: MyST pages, docstrings, and a table of config keys.

python -m sphinx -W --keep-going docs docs/_build
"""

import inspect
import re

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from mixer_jax.training.config import defaults as config_lib

project = "mixer_jax"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
napoleon_use_ivar = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"


def config_keys() -> list[tuple[str, str, str]]:
    """Returns (key, default, comment) of every config key, in order."""
    source = inspect.getsource(config_lib.defaults)
    values = config_lib.flatten(config_lib.defaults())
    comments, above, short = {}, [], {"config": ""}
    for line in source.splitlines():
        line = line.strip()
        if line.startswith("#"):
            above.append(line.lstrip("# "))
            continue
        if match := re.match(r"(\w+) = config\.(\w+) = ConfigDict\(\)", line):
            short[match[1]] = f"{match[2]}."
        elif match := re.match(
            r"([\w.]+)\.(\w+) = ([^#]*)(?:#\s*(.*))?$", line
        ):
            owner, _, rest = match[1].partition(".")
            key = short.get(owner, "") + (f"{rest}." if rest else "") + match[2]
            comments[key] = " ".join([*above, match[4] or ""]).strip()
        above = []
    return [
        (key, repr(value), comments.get(key, ""))
        for key, value in values.items()
    ]


class ConfigKeys(SphinxDirective):
    """A table of all config keys."""

    def run(self) -> list[nodes.Node]:
        """Returns the table."""
        group = nodes.tgroup(cols=3)
        group += [nodes.colspec(colwidth=width) for width in (30, 20, 50)]
        head, body = nodes.thead(), nodes.tbody()
        head += _row(("key", "default", "meaning"), nodes.strong)
        for row in config_keys():
            body += _row(row)
        group += [head, body]
        table = nodes.table()
        table += group
        return [table]


def _row(cells: tuple[str, str, str], kind: type = nodes.literal) -> nodes.row:
    row = nodes.row()
    for number, text in enumerate(cells):
        wrap = nodes.inline if number == 2 and kind is nodes.literal else kind
        paragraph = nodes.paragraph("", "", wrap(text, text))
        row += nodes.entry("", paragraph)
    return row


def setup(app) -> None:
    """Registers the directive."""
    app.add_directive("config-keys", ConfigKeys)
