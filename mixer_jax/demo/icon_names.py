"""Icon names -> categories: the thing that is drawn, without its style.

Iconify's names carry the style of the drawing as prefixes and suffixes. Most
sets list theirs; the others are read off the names: a word that may mean a
style or a thing ("line" in `chart-line`) is a style where many of the set's
names end in it.
"""

import collections
import hashlib
import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

# Words at the end of a name that mean a style in any set.
_STYLES = frozenset(
    {"duotone", "filled", "outline", "outlined", "solid", "two-tone", "twotone"}
)
# Words and sizes that mean a style only where they are common.
_DOUBTFUL = frozenset(
    {"bold", "broken", "dark", "fill", "flat", "light", "line", "linear", "o"}
    | {"regular", "round", "rounded", "sharp", "thin"}
    | {"10", "12", "14", "16", "18", "20", "24", "28", "32", "48", "96"}
)
_COMMON = 0.05  # share of a set's names
# Copies and forks of one set under several authors, and their other sets. Of
# the names that two of them share, most show the same drawing: reicon and
# solar 95 of 100, temaki and map 77, temaki and pinhead 72 (cosine of the ink
# on 24 x 24 pixels above 0.985); logos aside, no other two authors exceed half.
_COPIES = {
    "ionicons": ("famicons", "ion"),
    "lucide": ("feather", "lucide", "meteor-icons"),
    "material": ("ic", "material-symbols", "mdi", "memory", "zmdi"),
    "simple-icons": ("simple-icons", "thesvg"),
    "solar": ("reicon", "solar"),
    "temaki": ("map", "pinhead", "temaki"),
}
# One author's issues of the same drawings.
_ISSUES = {
    "cryptocurrency": ("cryptocurrency",),
    "fluent-emoji": ("fluent-emoji",),
    "font-awesome": ("fa", "fa6", "fa7"),
    "icon-park": ("icon-park",),
}
_EMOJI = (
    "emojione",
    "fluent-emoji",
    "fxemoji",
    "noto",
    "openmoji",
    "streamline-emojis",
    "twemoji",
)
# Labels of sets that say nothing of the thing.
_EMPTY_LABELS = frozenset(
    {"base", "common", "core", "essential", "extras openmoji"}
    | {"extras unicode", "general", "misc", "newicons", "other", "others"}
    | {"regular"}
)
_TONES = ("medium-dark", "medium-light", "medium", "dark", "light")
_SKIN = "-skin-tone"


class Affixes(NamedTuple):
    """What one set puts around its names.

    Attributes:
      prefixes: with the hyphen after them, longest first.
      suffixes: with the hyphen before them, longest first.
    """

    prefixes: tuple[str, ...]
    suffixes: tuple[str, ...]


def affixes(
    names: Collection[str], prefixes: Iterable[str], suffixes: Iterable[str]
) -> Affixes:
    """Finds what is style in the names of one set.

    Args:
      names: of all the set's icons.
      prefixes: that the set lists, without hyphens; "" stands for none.
      suffixes: likewise.
    """
    last = collections.Counter(name.rpartition("-")[2] for name in names)
    common = {word for word in _DOUBTFUL if last[word] > _COMMON * len(names)}
    before = {prefix.strip("-") for prefix in prefixes} - {""}
    after = {suffix.strip("-") for suffix in suffixes} | _STYLES | common
    return Affixes(
        tuple(f"{word}-" for word in sorted(before, key=_longest_first)),
        tuple(f"-{word}" for word in sorted(after - {""}, key=_longest_first)),
    )


def category(
    prefix: str, name: str, names: Collection[str], style: Affixes
) -> str:
    """Returns the category of an icon: its name without its style.

    Args:
      prefix: of the icon's set.
      name: of the icon.
      names: of all the set's icons.
      style: of the set, from `affixes`.

    Returns:
      Words joined by hyphens; never "", as a style alone stays itself. Skin
      tones are no style; they are named as Unicode does.
    """
    if is_emoji(prefix):
        for tone in _TONES:
            base = name.removesuffix(f"-{tone}")
            if base != name and base in names:
                return f"{base}-{tone}{_SKIN}"
        return name
    before = None
    while before != name:
        before = name
        for word in style.prefixes:
            name = name.removeprefix(word) or name
        for word in style.suffixes:
            name = name.removesuffix(word) or name
    return name


def group(label: str) -> str:
    """Returns a set's label for some of its icons as plain words.

    The sets spell one label in many ways, `Food & Drink`, `Food / Drink` and
    `FoodDrink` among them. A label that says nothing of the thing is "".
    """
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label)
    words = re.findall(r"[a-z0-9]+", apart.lower())
    plain = " ".join(word for word in words if word != "and")
    return "" if plain in _EMPTY_LABELS else plain


def is_emoji(prefix: str) -> bool:
    """Whether a set is one of emoji."""
    return _in_family(prefix, _EMOJI)


def vendor(prefix: str, author: str, category_id: str) -> str:
    """Returns who drew a set, as far as a category is concerned.

    Sets that copy each other are one vendor. In the test categories all sets
    of one author are, too: an author's second set often shows the drawings of
    the first in another style, and a style must not answer for another.
    """
    issues = {} if is_test(category_id) else _ISSUES
    for name, prefixes in (_COPIES | issues).items():
        if _in_family(prefix, prefixes):
            return name
    return author if is_test(category_id) else prefix


def base_key(category_id: str) -> str:
    """Returns a category without its skin tones; a tone alone stays itself."""
    return re.sub(f"-({'|'.join(_TONES)}){_SKIN}", "", category_id)


def is_test(category_id: str) -> bool:
    """Whether a category is one of the tenth that is never trained on."""
    return _hash(base_key(category_id)) % 10 == 0


def query_vendors(category_id: str, vendors: Iterable[str]) -> set[str]:
    """Returns the half of a category's vendors whose icons are queries.

    It is drawn by hash, so it stays when other categories come or go. Of an
    odd number the documents have the larger half.
    """
    drawn = sorted(set(vendors), key=lambda name: _hash(category_id, name))
    return set(drawn[: len(drawn) // 2])


def shuffled(category_ids: Iterable[str]) -> list[str]:
    """Returns categories in an order that favours no part of the alphabet."""
    return sorted(category_ids, key=_hash)


def _hash(*words: str) -> int:
    return int(hashlib.sha1("\0".join(words).encode()).hexdigest(), 16)


def _in_family(prefix: str, prefixes: Iterable[str]) -> bool:
    """Whether a set, or the one that it is a style of, is listed."""
    return any(
        prefix == listed or prefix.startswith(f"{listed}-")
        for listed in prefixes
    )


def _longest_first(word: str) -> tuple[int, str]:
    return -len(word), word
