"""Builds emoji tables whose test queries are by a vendor never trained on.

An emoji that at least two families of vendors draw is a category. There is one
table per family of vendors, such as fluent.csv. Its queries for testing are
drawings of this family, which is not in the training data, and show emoji that
are not in the training data either.

    python -m mixer_jax.demo.emoji_vendors --out=DIR [--size=128]
        [--package=FILE.tgz or folder] [--limit=N]
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from mixer_jax.data.tables import table
from mixer_jax.demo import icon_names, icon_packages
from mixer_jax.demo.emoji_sets import card, catalog, folds, sheet
from mixer_jax.runtime import command, files, numbers, parsing, terminal
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.ownership import folder_lock

_SHEET = "sheet.png"
_SHOWN = 40  # emoji on the contact sheet


def build_tables(
    root: Path,
    size: int = 128,
    package: Path | None = None,
    limit: int | None = None,
    *,
    families: Iterable[str] = catalog.FAMILIES,
) -> dict[str, pd.DataFrame]:
    """Draws the emoji into a folder, then writes one table per family.

    The tables are written last, so if one exists, its images are complete.
    Existing packages and drawings are kept.

    Args:
      root: the folder of the tables.
      size: side of the square images in pixels.
      package: the @iconify/json package, a tarball or its folder; fetched by
        npm if None.
      limit: maximum number of emoji; None for all.
      families: the families to write tables for.

    Returns:
      The tables by family.

    Raises:
      UserError: if npm, the renderer or a package is missing, or a package
        cannot be fetched or read.
    """
    packages = root / "packages"
    source = f"The other sets are from {package}."
    if package is None:
        source = f"The other sets are from `npm pack {icon_packages.ICONIFY}`."
        package = icon_packages.fetch(icon_packages.ICONIFY, packages)
    emojibase = icon_packages.fetch(icon_packages.EMOJIBASE, packages)
    drawn = catalog.draw(catalog.read(package, emojibase, limit), root, size)
    tables = {family: folds.make_fold(drawn, family) for family in families}
    keys = icon_names.shuffled(drawn.drawings["key"].unique())[:_SHOWN]
    names = [drawn.known[key].name for key in keys]
    sheet.write(root / _SHEET, drawn.drawings, keys, names)
    card.write(root, drawn, tables, size=size, source=source, sheet=_SHEET)
    for family, frame in tables.items():
        table.write_table(frame, root / f"{family}.csv")
    return tables


def build_table(path: Path) -> pd.DataFrame:
    """Builds all tables in a table's folder, for a training run.

    Args:
      path: path of the table; its name is that of a family.

    Returns:
      The table.

    Raises:
      UserError: if the file is not named after a family, or as `build_tables`.
    """
    path = Path(path)
    if path.stem not in catalog.FAMILIES or path.suffix != ".csv":
        raise UserError(
            f"The table {path} is not one of emoji-vendors: its file name must "
            "be the family of vendors to leave out of training, one of "
            f"{', '.join(f'{one}.csv' for one in catalog.FAMILIES)}."
        )
    return build_tables(path.parent)[path.stem]


def main(arguments: list[str] | None = None) -> int:
    """Writes one table per family of vendors and its images into a folder."""
    parser = parsing.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument(
        "--size",
        type=numbers.whole(16, 512),
        default=128,
        help="image side in pixels",
    )
    parser.add_argument(
        "--package",
        type=Path,
        help="the @iconify/json tarball or folder (default: fetched by npm)",
    )
    parser.add_argument(
        "--limit", type=numbers.whole(1), help="maximum number of emoji"
    )
    options = parser.parse_args(arguments)
    return command.run(lambda: _write(options))


def _write(options: argparse.Namespace) -> None:
    paths = [options.out / f"{family}.csv" for family in catalog.FAMILIES]
    names = [path.name for path in paths]
    names += [_SHEET, "CARD.md", "ATTRIBUTION.md"]
    files.check_folder(options.out, "The drawings", names)
    for folder in ("images", "packages"):
        files.check_folder(options.out / folder, "The drawings")
    with (
        folder_lock.hold(options.out, "--out"),
        files.in_turn(paths[0]),  # training runs build it too
    ):
        tables = build_tables(
            options.out, options.size, options.package, options.limit
        )
    for path, frame in zip(paths, tables.values(), strict=True):
        terminal.say(f"{path}: {len(frame)} samples")


if __name__ == "__main__":
    sys.exit(main())
