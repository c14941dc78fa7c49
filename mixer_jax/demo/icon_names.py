"""Categories of icons: their names without the style of the drawing.

Iconify's names contain the style of the drawing as prefixes and suffixes. Most
sets list these affixes; other affixes are inferred from the names: a word that
may mean a style or a thing ("line" in `chart-line`) counts as a style if many
of the set's names end in it.
"""

import collections
import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from mixer_jax.data.tables.holdout import digest

# Words that always denote a style at the end of a name.
_STYLES = frozenset(
    {"duotone", "filled", "outline", "outlined", "solid", "two-tone", "twotone"}
)
# Words and sizes that denote a style only in sets where they are common.
_DOUBTFUL = frozenset(
    {"bold", "broken", "dark", "fill", "flat", "light", "line", "linear", "o"}
    | {"regular", "round", "rounded", "sharp", "thin"}
    | {"10", "12", "14", "16", "18", "20", "24", "28", "32", "48", "96"}
)
_COMMON = 0.05  # minimum share of a set's names
# Copies and forks of one set by several authors, and these authors' other sets.
# Most names that occur in two of these sets have the same drawing in both: 95%
# for reicon and solar, 77% for temaki and map, 72% for temaki and pinhead (with
# a cosine similarity of the ink on 24 x 24 pixels above 0.985). Except for
# logos, no other pair of authors exceeds 50%.
_COPIES = {
    "ionicons": ("famicons", "ion"),
    "lucide": ("feather", "lucide", "meteor-icons"),
    "material": ("ic", "material-symbols", "mdi", "memory", "zmdi"),
    "simple-icons": ("simple-icons", "thesvg"),
    "solar": ("reicon", "solar"),
    "temaki": ("map", "pinhead", "temaki"),
}
# Versions of the same drawings by one author.
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
# Labels of icon groups that do not describe the subject.
_EMPTY_LABELS = frozenset(
    {"base", "common", "core", "essential", "extras openmoji"}
    | {"extras unicode", "general", "misc", "newicons", "other", "others"}
    | {"regular"}
)
_TONES = ("medium-dark", "medium-light", "medium", "dark", "light")
_SKIN = "-skin-tone"


class Affixes(NamedTuple):
    """Style prefixes and suffixes of the names in one set.

    Attributes:
      prefixes: prefixes with a trailing hyphen, longest first.
      suffixes: suffixes with a leading hyphen, longest first.
    """

    prefixes: tuple[str, ...]
    suffixes: tuple[str, ...]


def affixes(
    names: Collection[str], prefixes: Iterable[str], suffixes: Iterable[str]
) -> Affixes:
    """Returns the style prefixes and suffixes of one set.

    Args:
      names: names of all icons of the set.
      prefixes: prefixes that the set lists, without hyphens; "" means none.
      suffixes: suffixes that the set lists, without hyphens; "" means none.
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
      prefix: the prefix of the icon's set.
      name: the icon's name.
      names: names of all icons of the set.
      style: the set's prefixes and suffixes, from `affixes`.

    Returns:
      Words joined by hyphens; never "", as a name that is only a style is kept.
      Skin tones are not a style and are kept, with their Unicode names.
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
    """Returns the label of a group of icons as plain words.

    The sets spell the same label in many ways, such as `Food & Drink`,
    `Food / Drink` and `FoodDrink`. Labels that do not describe the subject
    become "".
    """
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label)
    words = re.findall(r"[a-z0-9]+", apart.lower())
    plain = " ".join(word for word in words if word != "and")
    return "" if plain in _EMPTY_LABELS else plain


def is_emoji(prefix: str) -> bool:
    """Returns whether a set consists of emoji."""
    return _in_family(prefix, _EMOJI)


def maker(prefix: str, author: str) -> str:
    """Returns the vendor of a set, whatever the category.

    All sets of one author count as one vendor, and so do sets that copy each
    other.
    """
    return _family(prefix, _COPIES) or author


def vendor(prefix: str, author: str, category_id: str) -> str:
    """Returns the vendor of a set's icons in a category.

    Sets that copy each other count as one vendor. In test categories, so do all
    sets of one author: an author's second set often shows the drawings of the
    first in another style, and these must not match each other.
    """
    if is_test(category_id):
        return maker(prefix, author)
    return _family(prefix, _COPIES | _ISSUES) or prefix


def base_key(category_id: str) -> str:
    """Returns a category without skin tones, unless it is only a tone."""
    return re.sub(f"-({'|'.join(_TONES)}){_SKIN}", "", category_id)


def is_test(category_id: str) -> bool:
    """Returns whether a category is one of the 10% held out for testing."""
    return digest(base_key(category_id)) % 10 == 0


def query_vendors(category_id: str, vendors: Iterable[str]) -> set[str]:
    """Returns the half of a category's vendors whose icons are queries.

    The half is chosen by a hash, so it does not depend on other categories. If
    the number is odd, the documents get the larger half.
    """
    drawn = sorted(set(vendors), key=lambda name: digest(category_id, name))
    return set(drawn[: len(drawn) // 2])


def shuffled(category_ids: Iterable[str], *salt: str) -> list[str]:
    """Returns categories in the pseudorandom order of their hashes.

    Args:
      category_ids: the categories.
      *salt: words of the hash; each gives an order of its own.
    """
    return sorted(category_ids, key=lambda key: digest(*salt, key))


def _family(prefix: str, families: Mapping[str, Iterable[str]]) -> str:
    """Returns the name of the family that a set is in; "" for none."""
    for name, prefixes in families.items():
        if _in_family(prefix, prefixes):
            return name
    return ""


def _in_family(prefix: str, prefixes: Iterable[str]) -> bool:
    """Returns whether a set is one of `prefixes` or a style of one of them."""
    return any(
        prefix == listed or prefix.startswith(f"{listed}-")
        for listed in prefixes
    )


def _longest_first(word: str) -> tuple[int, str]:
    return -len(word), word
