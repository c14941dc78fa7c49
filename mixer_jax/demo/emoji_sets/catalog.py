"""The emoji drawings of all vendors, from npm and Python packages."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mixer_jax.demo import emoji, icon_drawing, icon_names, icon_packages
from mixer_jax.demo.emoji_sets import fxemoji_names, names
from mixer_jax.runtime import progress
from mixer_jax.runtime.errors import UserError

# The sets of each family of vendors: revisions and styles of one vendor's
# drawings, which must not match each other.
FAMILIES = {
    "emojione": ("emojione", "emojione-v1", "emojione-monotone"),
    "fluent": (
        "fluent-emoji",
        "fluent-emoji-flat",
        "fluent-emoji-high-contrast",
    ),
    "fxemoji": ("fxemoji",),
    "noto": ("noto", "noto-v1"),
    "openmoji": ("openmoji",),
    "twemoji": ("twemoji",),
}
_CC_BY = {
    "title": "CC BY 4.0",
    "spdx": "CC-BY-4.0",
    "url": "https://creativecommons.org/licenses/by/4.0/",
}
# Sets that are drawn from Python packages. Iconify has other versions of them,
# which are used only for their names.
_PYTHON = {
    "openmoji": {
        "name": "OpenMoji 17.0",
        "author": {"name": "OpenMoji", "url": "https://openmoji.org"},
        "license": {
            "title": "CC BY-SA 4.0",
            "spdx": "CC-BY-SA-4.0",
            "url": "https://creativecommons.org/licenses/by-sa/4.0/",
        },
    },
    "twemoji": {
        "name": "Twemoji",
        "author": {"name": "Twitter, Inc. and other contributors"},
        "license": _CC_BY,
    },
}
_KEYWORDS = 6  # maximum number of keywords in a text
_COLUMNS = ("set", "family", "key", "svg")


class Count(NamedTuple):
    """The number of a set's drawings, and of those that are an emoji's."""

    drawings: int
    joined: int


class Catalog(NamedTuple):
    """The drawings of all sets.

    Attributes:
      drawings: one row per drawing: `set`, `family`, `key` (of the emoji) and
        `svg` (a document), or `image` and `digest` instead of `svg`.
      known: the emoji without skin tones by key.
      infos: Iconify's `info` of each set.
      counts: the drawings of each set, those with skin tones included, and
        those joined to an emoji without skin tones.
    """

    drawings: pd.DataFrame
    known: dict[str, names.Emoji]
    infos: dict[str, dict[str, Any]]
    counts: dict[str, Count]

    def text(self, key: str) -> str:
        """Returns an emoji's name and keywords: "red apple, diet, food"."""
        name, keywords = self.known[key]
        others = [word for word in keywords if word != name]
        return ", ".join([name, *others[:_KEYWORDS]])


def read(package: Path, emojibase: Path, limit: int | None = None) -> Catalog:
    """Returns the drawings of emoji that several families have.

    Args:
      package: the @iconify/json package, a tarball or its folder.
      emojibase: the tarball of the package emojibase-data.
      limit: maximum number of emoji; None for all.

    Raises:
      UserError: if a package is missing, damaged or incomplete.
    """
    entries = icon_packages.read_file(emojibase, "en/data.json")
    known = names.read_emoji(entries)
    sets = _read_sets(package)
    by_name = names.known_names(sets.values(), known)
    rows, counts = [], {}
    for family, prefixes in FAMILIES.items():
        for prefix in prefixes:
            if prefix in _PYTHON:
                documents, total = _python_documents(prefix, known)
            else:
                documents, total = _documents(sets[prefix], known, by_name)
            counts[prefix] = Count(total, len(documents))
            rows += [(prefix, family, *pair) for pair in documents.items()]
    drawings = pd.DataFrame(rows, columns=_COLUMNS, dtype=str)
    infos = {prefix: one.info for prefix, one in sets.items()} | _PYTHON
    # Iconify gives the license of FxEmoji's code.
    infos["fxemoji"] = infos["fxemoji"] | {"license": _CC_BY}
    return Catalog(_shared(drawings, limit), known, infos, counts)


def draw(catalog: Catalog, root: Path, size: int) -> Catalog:
    """Draws the drawings to files under `root`, on white.

    Existing files of this size are kept.

    Args:
      catalog: the drawings, with `svg`.
      root: the folder of `images`.
      size: side of the square pictures in pixels.

    Returns:
      The catalog with `image` (a path below `root`) and `digest` (of the
      pixels) instead of `svg`, without blank pictures.

    Raises:
      UserError: if the renderer is not installed.
    """
    drawings = catalog.drawings
    images = [
        f"images/{row.set}/{row.key}-{icon_drawing.file_key(row.svg)}.png"
        for row in drawings.itertuples()
    ]
    jobs = [(a, root / b) for a, b in zip(drawings["svg"], images, strict=True)]
    drawn = progress.track(
        icon_drawing.draw([jobs], size, len(jobs)),
        "Drawing the emoji",
        len(jobs),
    )
    drawings = drawings.drop(columns="svg").assign(
        image=images, digest=[one.digest for one in drawn]
    )
    return catalog._replace(drawings=drawings[drawings["digest"] != b""])


def _shared(drawings: pd.DataFrame, limit: int | None) -> pd.DataFrame:
    """Returns the drawings of emoji that several families draw."""
    families = drawings.groupby("key")["family"].nunique()
    chosen = icon_names.shuffled(families.index[families > 1])[:limit]
    return drawings[drawings["key"].isin(chosen)]


def _read_sets(package: Path) -> dict[str, icon_packages.IconSet]:
    """Returns the sets of emoji in a package, by prefix."""
    wanted = [prefix for prefixes in FAMILIES.values() for prefix in prefixes]
    found = {
        one.prefix: one for one in icon_packages.read_sets(package, wanted)
    }
    missing = [prefix for prefix in wanted if prefix not in found]
    if missing:
        raise UserError(
            f"{package} has no set {missing[0]}; the tables need the emoji of "
            f"{icon_packages.ICONIFY}."
        )
    return found


def _python_documents(
    vendor: str, known: Mapping[str, names.Emoji]
) -> tuple[dict[str, str], int]:
    """Returns a vendor's SVG documents by key, and the number of drawings."""
    found = emoji.vendor_drawings(vendor)
    documents = {
        key: path.read_text("utf-8")
        for key, path in found.items()
        if key in known
    }
    return documents, len(found)


def _documents(
    one: icon_packages.IconSet,
    known: Mapping[str, names.Emoji],
    by_name: Mapping[str, str],
) -> tuple[dict[str, str], int]:
    """Returns a set's SVG documents by key, and the number of drawings."""
    if one.prefix == "fxemoji":
        by_name = {**by_name, **fxemoji_names.NAMES}
    documents = {
        key: icon_drawing.svg(one.icons[name], one.box)
        for key, name in names.join(one, known, by_name).items()
    }
    return documents, len(names.visible(one))
