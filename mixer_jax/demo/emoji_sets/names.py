"""Code points of emoji drawings, found by the drawings' names.

Some sets of Iconify list the code points of their drawings. The others have
only names, most of which are names of the same emoji in a set that lists code
points, or the emoji's name in some version of Unicode or CLDR.
"""

import collections
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mixer_jax.demo import emoji, icon_packages

_FLAG = re.compile("^flag-for-(flag-)?")


class Emoji(NamedTuple):
    """Name and keywords of an emoji, from CLDR."""

    name: str
    keywords: tuple[str, ...]


def read_emoji(entries: Iterable[dict[str, Any]]) -> dict[str, Emoji]:
    """Returns the emoji without skin tones by key.

    Args:
      entries: Emojibase's `data.json`.
    """
    found = {}
    for entry in entries:
        key = emoji.code_key(entry["hexcode"])
        if emoji.base_key(key) == key:
            keywords = tuple(entry.get("tags", ()))
            found[key] = Emoji(entry["label"], keywords)
    return found


def known_names(
    sets: Iterable[icon_packages.IconSet], known: Mapping[str, Emoji]
) -> Mapping[str, str]:
    """Returns keys of emoji by the plain form of their names.

    The sources of names are, in this order: sets that list code points, CLDR,
    Unicode, and the other names in the sets that list code points. Each source
    takes precedence over the following ones, and a name that means several
    emoji in a source is not taken from it.

    Args:
      sets: sets of emoji.
      known: the emoji; others are ignored.
    """
    listed, aliases = [], []
    for one in sets:
        keys = {name: key for key, name in keys_of(one, known).items()}
        listed += [(name, key) for name, key in keys.items()]
        aliases += [
            (alias, keys[entry["parent"]])
            for alias, entry in one.aliases.items()
            if _same_drawing(entry) and entry["parent"] in keys
        ]
    cldr = [(one.name, key) for key, one in known.items()]
    characters = [
        (unicodedata.name(chr(int(key, 16)), ""), key)
        for key in known
        if "-" not in key
    ]
    sources = (listed, cldr, characters, aliases)
    return collections.ChainMap(*map(_unambiguous, sources))


def keys_of(
    one: icon_packages.IconSet, known: Mapping[str, Emoji]
) -> dict[str, str]:
    """Returns a set's names of drawings by key, from its own code points."""
    found = {emoji.code_key(code): name for code, name in one.chars.items()}
    names = visible(one)
    return {
        key: name
        for key, name in found.items()
        if key in known and name in names
    }


def join(
    one: icon_packages.IconSet,
    known: Mapping[str, Emoji],
    names: Mapping[str, str],
) -> dict[str, str]:
    """Returns a set's names of drawings by key.

    Args:
      one: the set.
      known: the emoji; others are ignored.
      names: keys by plain name, for sets without code points.
    """
    if one.chars:
        return keys_of(one, known)
    found: dict[str, str] = {}
    for name in sorted(visible(one)):
        key = names.get(plain(name))
        if key:
            found.setdefault(key, name)
    return found


def visible(one: icon_packages.IconSet) -> set[str]:
    """Returns the names of a set's drawings that it does not hide."""
    return {k for k, icon in one.icons.items() if not icon.get("hidden")}


def plain(name: str) -> str:
    """Returns a name in ASCII letters and digits: "flagaustria"."""
    name = _FLAG.sub("flag-", name.lower())
    name = unicodedata.normalize("NFKD", name)
    return re.sub("[^a-z0-9]", "", name)


def _same_drawing(alias: dict[str, Any]) -> bool:
    """Returns whether an alias is neither rotated nor mirrored."""
    return {"parent"} <= alias.keys() <= {"parent", "hidden"}


def _unambiguous(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Returns the most frequent key of each name, unless there are several."""
    votes: dict[str, collections.Counter] = {}
    for name, key in pairs:
        votes.setdefault(plain(name), collections.Counter())[key] += 1
    found = {}
    for name, counter in votes.items():
        (key, most), *others = counter.most_common(2)
        if not others or others[0][1] < most:
            found[name] = key
    return found
