"""Builds the icon table, whose categories are drawn by several vendors.

The icon's name is the label. As with titles in a product catalog, the category
sizes have a long tail and the labels are noisy ("apple" is a fruit and a brand;
home and house are two categories). In every category, queries and documents
come from different vendors, so no set answers its own queries. A further 10% of
categories have only documents, like products that nobody searches for.

With --unseen-vendors, a tenth of the vendors are not in the training data
either, and only their icons are queries for testing.

    python -m mixer_jax.demo.icons --out=DIR [--size=96] [--permissive]
        [--package=FILE.tgz or folder] [--limit=N] [--no-tags]
        [--unseen-vendors]
"""

import argparse
import collections
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mixer_jax.data.tables import table
from mixer_jax.demo import (
    icon_card,
    icon_drawing,
    icon_names,
    icon_packages,
    icon_splits,
)
from mixer_jax.runtime import command, files, parsing, progress, terminal
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.ownership import folder_lock

SMALLEST, LARGEST = 64, 224  # pixels
# Licenses that require at most attribution.
PERMISSIVE = frozenset(
    {"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-3.0"}
    | {"CC-BY-4.0", "CC0-1.0", "ISC", "MIT", "MIT-0", "Unlicense"}
)
# Iconify categories that describe the subject, not the drawing grid.
_KINDS = ("Emoji", "Flags / Maps", "Logos", "Programming", "Thematic")
_TAGS = 8  # maximum number of other names in a text
_LICENSE = "license requires more than attribution"  # reason for the exclusion
_COLUMNS = (
    *("set", "name", "category", "vendor", "maker", "label", "kind", "text"),
)


def build_table(
    path: Path,
    size: int = 96,
    package: Path | None = None,
    permissive: bool = False,
    limit: int | None = None,
    tags: bool = True,
    *,
    unseen: bool = False,
) -> pd.DataFrame:
    """Draws the icons next to a table, then writes the table.

    The table is written last, so if it exists, its images are complete.
    Existing packages and drawings are kept.

    Args:
      path: path of the table.
      size: side of the square images in pixels.
      package: the @iconify/json package, a tarball or its folder; fetched by
        npm if None.
      permissive: whether to leave out sets with licenses not in `PERMISSIVE`.
      limit: maximum number of categories; None for all.
      tags: whether to fetch tags for the icons of some sets, for the texts.
      unseen: whether the queries of `test` and `val` are from vendors that
        training has no icons of; see `icon_splits`.

    Returns:
      The table.

    Raises:
      UserError: if the size is out of range, npm or the renderer is missing,
        or a package cannot be fetched or read.
    """
    if not SMALLEST <= size <= LARGEST:
        raise UserError(
            f"The size is {size} pixels; it must be from {SMALLEST} to "
            f"{LARGEST}."
        )
    if limit is not None and limit < 1:
        raise UserError(
            f"The limit is {limit} categories; it must be 1 or more."
        )
    path = Path(path)
    root, packages = path.parent, path.parent / "packages"
    source = f"The package {package}."
    if package is None:
        source = f"`npm pack {icon_packages.ICONIFY}`, from Iconify."
        package = icon_packages.fetch(icon_packages.ICONIFY, packages)
    next(icon_packages.read_sets(package))  # check before fetching more
    words = icon_packages.read_tags(packages) if tags else {}
    icons, infos, left_out = _catalog(package, words, permissive)
    icons = icon_splits.assign(icons, unseen, left_out)
    icons = icon_splits.with_categories_to_match(icons, left_out)
    if limit is not None:
        # In the plain order, the categories without queries come first.
        chosen = icon_names.shuffled(icons["category"].unique(), "limit")
        chosen = chosen[:limit]
        icons = icons[icons["category"].isin(chosen)]
    icons, faults = _draw(icons, package, root, size, left_out)
    icons = icon_splits.distinct(icons, left_out)
    icons = icon_splits.still_to_match(icons, left_out)
    frame = _frame(icons)
    icon_card.write(
        root,
        frame,
        infos,
        icon_card.Build(
            table=path.name,
            source=source,
            size=size,
            permissive=permissive,
            unseen=unseen,
            left_out=left_out,
            faults=faults,
        ),
    )
    table.write_table(frame, path)
    return frame


def main(arguments: list[str] | None = None) -> int:
    """Writes icons.csv and its images into a folder."""
    parser = parsing.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument(
        "--size", type=int, default=96, help="image side in pixels"
    )
    parser.add_argument(
        "--permissive",
        action="store_true",
        help="only sets whose license requires at most attribution",
    )
    parser.add_argument(
        "--package",
        type=Path,
        help="the @iconify/json tarball or folder (default: fetched by npm)",
    )
    parser.add_argument(
        "--limit", type=int, help="maximum number of categories"
    )
    parser.add_argument(
        "--no-tags",
        action="store_true",
        help="do not fetch tags for the documents' texts",
    )
    parser.add_argument(
        "--unseen-vendors",
        action="store_true",
        help="write icons_unseen.csv, whose test queries are from vendors that "
        "are not in the training data",
    )
    options = parser.parse_args(arguments)
    return command.run(lambda: _write(options))


def _write(options: argparse.Namespace) -> None:
    name = "icons_unseen.csv" if options.unseen_vendors else "icons.csv"
    names = (name, "CARD.md", "ATTRIBUTION.md")
    files.check_folder(options.out, "The drawings", names)
    for folder in ("images", "packages"):
        files.check_folder(options.out / folder, "The drawings")
    path = options.out / name
    with (
        folder_lock.hold(options.out, "--out"),
        files.in_turn(path),  # training runs build it too
    ):
        frame = build_table(
            path,
            options.size,
            options.package,
            options.permissive,
            options.limit,
            not options.no_tags,
            unseen=options.unseen_vendors,
        )
    count = frame["category_id"].nunique()
    terminal.say(f"{path}: {len(frame)} samples of {count} categories")


def _catalog(
    package: Path, tags: dict[str, dict[str, list[str]]], permissive: bool
) -> tuple[pd.DataFrame, dict[str, dict[str, Any]], dict[str, int]]:
    """Returns icons, the info of each set, and the counts of excluded icons."""
    rows, infos = [], {}
    left_out = {"hidden by their set": 0, _LICENSE: 0}
    for one in icon_packages.read_sets(package):
        names = {k for k, icon in one.icons.items() if not icon.get("hidden")}
        left_out["hidden by their set"] += len(one.icons) - len(names)
        if permissive and one.info["license"].get("spdx") not in PERMISSIVE:
            left_out[_LICENSE] += len(names)
            continue
        infos[one.prefix] = one.info
        rows += _rows(one, names, tags.get(one.prefix, {}))
    return pd.DataFrame(rows, columns=_COLUMNS, dtype=str), infos, left_out


def _rows(
    one: icon_packages.IconSet, names: set[str], tags: dict[str, list[str]]
) -> Iterator[tuple[str, ...]]:
    """Yields a row of `_COLUMNS` for each icon of a set."""
    style = icon_names.affixes(names, one.prefixes, one.suffixes)
    categories = {
        name: icon_names.category(one.prefix, name, names, style)
        for name in (*sorted(names), *one.aliases)
    }
    labels = {
        name: icon_names.group(label)
        for label, members in one.categories.items()
        for name in members
    }
    also = collections.defaultdict(list)
    for alias, entry in one.aliases.items():
        # A rotated or mirrored alias is a different drawing.
        if {"parent"} <= entry.keys() <= {"parent", "hidden"}:
            words = categories[alias].removeprefix(f"{one.prefix}-")
            also[entry["parent"]].append(words)
    kind = one.info.get("category", "")
    kind = icon_names.group(kind) if kind in _KINDS else ""
    author = one.info["author"]["name"]
    maker = icon_names.maker(one.prefix, author)
    for name in sorted(names):
        key = categories[name]
        label = labels.get(name, "")
        human = tags.get(name, tags.get(key, []))
        text = _text(key, [*also[name], *human], label or kind)
        vendor = icon_names.vendor(one.prefix, author, key)
        yield one.prefix, name, key, vendor, maker, label, kind, text


def _text(key: str, others: list[str], group: str) -> str:
    """Joins an icon's names and group: "home, house, building, places"."""
    name, *plain = (
        " ".join(words.replace("-", " ").lower().split())
        for words in (key, *others)
    )
    more = [words for words in dict.fromkeys(plain) if words not in ("", name)]
    parts = dict.fromkeys([name, *more[:_TAGS], group])
    return ", ".join(filter(None, parts))


def _draw(
    icons: pd.DataFrame,
    package: Path,
    root: Path,
    size: int,
    left_out: dict[str, int],
) -> tuple[pd.DataFrame, list[str]]:
    """Draws icons; returns those with a picture, and the list of faults.

    Adds the columns `image`, a path below `root`, and `digest`.
    """
    wanted = dict(iter(icons.groupby("set", sort=False)))
    parts: list[pd.DataFrame] = []

    def batches() -> Iterator[list[tuple[str, Path]]]:
        # Read the sets again: keeping all drawings would take too much memory.
        for one in icon_packages.read_sets(package):
            if one.prefix not in wanted:
                continue
            part = wanted[one.prefix]
            svgs = [
                icon_drawing.svg(one.icons[name], one.box)
                for name in part["name"]
            ]
            paths = [
                _image(one.prefix, name, icon_drawing.file_key(document))
                for name, document in zip(part["name"], svgs, strict=True)
            ]
            parts.append(part.assign(image=paths))
            yield [(a, root / b) for a, b in zip(svgs, paths, strict=True)]

    drawings = list(
        progress.track(
            icon_drawing.draw(batches(), size, len(icons)),
            "Drawing the icons",
            len(icons),
        )
    )
    drawn = pd.concat(parts).assign(
        digest=[drawing.digest for drawing in drawings],
        fault=[drawing.fault for drawing in drawings],
    )
    drawn = drawn.sort_values(["category", "set", "name"])
    faulty, visible = drawn["fault"] != "", drawn["digest"] != b""
    left_out["blank on white"] = int((~visible & ~faulty).sum())
    left_out["cannot be drawn"] = int(faulty.sum())
    named = drawn["set"] + ":" + drawn["name"] + ": " + drawn["fault"]
    return drawn[visible], named[faulty].tolist()


def _image(prefix: str, name: str, key: str) -> str:
    # With sixteen folders per set, a folder has at most about 2,000 files.
    return f"images/{prefix}/{key[0]}/{name}-{key}.png"


def _frame(icons: pd.DataFrame) -> pd.DataFrame:
    query = icons["query"]
    groups = _groups(icons)
    return pd.DataFrame(
        {
            "sample_id": icons["set"] + ":" + icons["name"],
            "role": np.where(query, table.QUERY, table.DOCUMENT),
            "image": icons["image"],
            "text": icons["text"].where(~query, ""),
            "category_id": icons["category"],
            "group": [groups.get(key, "") for key in icons["category"]],
            "split": icons["split"],
        }
    ).reset_index(drop=True)


def _groups(icons: pd.DataFrame) -> dict[str, str]:
    """Returns each category's most frequent label, or kind if unlabeled."""
    groups = {}
    for column in ("kind", "label"):
        labeled = icons[icons[column] != ""]
        votes = labeled.groupby(["category", column])["set"].nunique()
        ranked = votes.reset_index().sort_values(
            ["category", "set", column], ascending=[True, False, True]
        )
        first = ranked.drop_duplicates("category").set_index("category")
        groups |= first[column].to_dict()
    return groups


if __name__ == "__main__":
    sys.exit(main())
