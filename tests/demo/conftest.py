"""Tiny npm packages of icons and emoji, in their documented formats."""

import io
import json
import tarfile

import pytest

from mixer_jax.demo import emoji
from mixer_jax.demo.emoji_sets import folds

# Enough names without a style suffix to fill both splits.
_WORDS = [f"{a}{b}" for a in ("bird", "cake", "door") for b in "abcdefghij"]


def _square(left, top, side, color="currentColor"):
    """Returns the body of an icon, a square in a 24-pixel box."""
    return f'<path fill="{color}" d="M{left} {top}h{side}v{side}h-{side}z"/>'


def _icon_set(prefix, author, spdx, icons, **fields):
    """Returns a set of icons, given as bodies by name."""
    info = {
        "name": prefix.title(),
        "author": {"name": author, "url": f"https://{prefix}.example"},
        "license": {"title": spdx, "spdx": spdx},
        "category": "UI 24px",
    }
    data = {name: {"body": body} for name, body in icons.items()}
    return {
        "prefix": prefix,
        "info": info | fields.pop("info", {}),
        "icons": data,
        "width": 24,
        "height": 24,
    } | fields


def _sets():
    # These drawings differ from each other and from those below.
    many, other = (
        {word: _square(k % 6, k // 6, side) for k, word in enumerate(_WORDS)}
        for side in (12, 14)
    )
    alpha = _icon_set(
        "alpha",
        "Ann",
        "MIT",
        {
            "home": _square(1, 1, 20),
            "home-outline": _square(2, 2, 20),
            "home-outline-copy": _square(3, 3, 3),
            "star": _square(4, 4, 9),
            "ghost": _square(0, 0, 24, "white"),
            "torn": "<path fill='currentColor' d='M0 0h9v9z'",
            "twin": _square(5, 5, 5),
            "alone": _square(6, 6, 6),
            "gone": _square(7, 7, 7),
        }
        | many,
        suffixes={"": "Filled", "outline": "Outline"},
        categories={"Places": ["home", "home-outline"], "Shapes": ["star"]},
        aliases={
            "house": {"parent": "home"},
            "alpha-home-outline": {"parent": "home"},
            "home-left": {"parent": "home", "hFlip": True},
        },
    )
    alpha["icons"]["gone"]["hidden"] = True
    beta = _icon_set(
        "beta",
        "Bob",
        "Apache-2.0",
        {
            "bold-home": _square(1, 1, 8),
            "thin-home": _square(1, 1, 9),
            "bold-star": _square(4, 4, 10),
            "bold-ghost": _square(3, 3, 4),
            "bold-torn": _square(3, 3, 5),
            "gone": _square(7, 7, 8),
        }
        | other,
        prefixes={"bold": "Bold", "thin": "Thin"},
        categories={"Buildings": ["bold-home"]},
    )
    gamma = _icon_set(
        "gamma",
        "Cleo",
        "GPL-3.0-only",
        {"home": _square(2, 9, 9), "moon": _square(3, 9, 9)},
        categories={"Places": ["home"]},
    )
    delta = _icon_set(
        "delta",
        "Dan",
        "CC0-1.0",
        {"star": _square(4, 4, 9), "twin": _square(5, 5, 5)},
        info={"category": "Logos"},
    )
    # ic and mdi count as one vendor. Cleo also has a "moon", but no "sun".
    ic = _icon_set(
        "ic",
        "Material Design Authors",
        "Apache-2.0",
        {"baseline-sun": _square(1, 2, 3), "baseline-moon": _square(1, 2, 4)},
        prefixes={"baseline": "Baseline"},
    )
    mdi = _icon_set(
        "mdi",
        "Pictogrammers",
        "Apache-2.0",
        {"sun": _square(1, 2, 5), "moon": _square(1, 2, 6)},
    )
    return [alpha, beta, gamma, delta, ic, mdi]


def _write(path, sets):
    """Writes sets as `npm pack @iconify/json` does; returns the path."""
    files = {f"json/{one['prefix']}.json": one for one in sets}
    files["collections.json"] = {one["prefix"]: one["info"] for one in sets}
    files["package.json"] = {"name": "@iconify/json"}
    return _pack(path, files)


def _pack(path, files):
    """Writes JSON files into a tarball as npm does; returns the path."""
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            content = json.dumps(data).encode()
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def icon_sets():
    """The sets of the package, which tests may change."""
    return _sets()


@pytest.fixture
def pack_icons():
    """The function that writes a package: path and sets -> path."""
    return _write


@pytest.fixture
def icon_package(tmp_path, icon_sets):
    """The package as a tarball."""
    return _write(tmp_path / "iconify-json.tgz", icon_sets)


_EMOJI_SETS = (
    *("emojione", "emojione-v1", "emojione-monotone", "fluent-emoji"),
    *("fluent-emoji-flat", "fluent-emoji-high-contrast", "fxemoji"),
    *("noto", "noto-v1", "openmoji", "twemoji"),
)
_WITH_CODES = ("fluent-emoji-flat", "noto", "openmoji", "twemoji")


@pytest.fixture(scope="session")
def emoji_keys():
    """Keys of a few emoji by split."""
    keys = {"test": [], "val": [], "train": []}
    for key in emoji.drawings()["twemoji"]:
        chosen = keys[folds.split_of(key)]
        if "-" not in key and key == emoji.base_key(key) and len(chosen) < 4:
            chosen.append(key)
    return keys


@pytest.fixture
def emoji_sets(emoji_keys):
    """The sets of emoji of the package, which tests may change."""
    keys = [key for chosen in emoji_keys.values() for key in chosen]
    found = []
    for number, prefix in enumerate(_EMOJI_SETS):
        icons = {
            f"emoji-{key}": _square(column, number, 5 + number)
            for column, key in enumerate(keys)
        }
        one = _icon_set(prefix, prefix.partition("-")[0], "MIT", icons)
        if prefix in _WITH_CODES:
            one["chars"] = {key: f"emoji-{key}" for key in keys}
        found.append(one)
    return found


@pytest.fixture
def emojibase(tmp_path, emoji_keys):
    """A tiny emojibase-data package, a tarball."""
    entries = [
        {"hexcode": key.upper(), "label": f"name {key}", "tags": ["a", "b"]}
        for chosen in emoji_keys.values()
        for key in chosen
    ]
    return _pack(tmp_path / "emojibase.tgz", {"en/data.json": entries})
