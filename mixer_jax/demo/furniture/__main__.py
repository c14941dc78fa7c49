"""Builds the furniture tables: catalog pictures and other views of products.

    python -m mixer_jax.demo.furniture --out=DIR [--size=128] [--views=5]
        [--package=FILE.deb or folder] [--limit=N]

CARD.md, which it writes, describes the tables.
"""

import argparse
import sys
from pathlib import Path

from mixer_jax.demo.furniture import build, contact_sheet, folds
from mixer_jax.demo.furniture.settings import Settings
from mixer_jax.runtime import command, files, parsing, terminal
from mixer_jax.runtime.ownership import folder_lock


def main(arguments: list[str] | None = None) -> int:
    """Writes fold0.csv ... and their pictures into a folder."""
    parser = parsing.for_command("mixer_jax.demo.furniture", __doc__)
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    default = Settings()
    for option, value, text in (
        ("--size", default.size, "picture side in pixels"),
        ("--views", default.views, "number of queries per product"),
        ("--limit", None, "maximum number of products"),
    ):
        parser.add_argument(option, type=int, default=value, help=text)
    parser.add_argument(
        "--package",
        type=Path,
        help="the Debian package sweethome3d-furniture or a folder with its "
        "content (default: fetched by apt-get)",
    )
    options = parser.parse_args(arguments)
    return command.run(lambda: _write(options))


def _write(options: argparse.Namespace) -> None:
    tables = [build.name(fold) for fold in range(folds.NUMBER)]
    names = (*tables, "CARD.md", "ATTRIBUTION.md", contact_sheet.NAME)
    files.check_folder(options.out, "The tables", names)
    for folder in ("images", "cutouts", "packages"):
        files.check_folder(options.out / folder, "The pictures")
    settings = Settings(
        options.size, options.views, options.package, options.limit
    )
    with (
        folder_lock.hold(options.out, "--out"),
        files.in_turn(options.out / tables[0]),  # training runs build it too
    ):
        frames = build.build_tables(options.out, settings)
    count = frames[tables[0]]["category_id"].nunique()
    last = options.out / tables[-1]
    terminal.say(f"{options.out / tables[0]} ... {last}: {count} products")


if __name__ == "__main__":
    sys.exit(main())
