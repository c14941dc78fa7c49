"""Converts a public data set's files into a sample table.

    python -m mixer_jax.data.read FORMAT --root=DIR [--out=DIR/table.csv]

Without a FORMAT, lists the known formats; docs/datasets has a page for each.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mixer_jax.data import readers
from mixer_jax.data.readers import rows, sample_table
from mixer_jax.runtime import command, parsing, terminal
from mixer_jax.runtime.ownership import folder_lock


def make_parser(name: str) -> argparse.ArgumentParser:
    """Returns the argument parser for a format."""
    one = readers.FORMATS[name]
    parser = parsing.Parser(
        prog=f"python -m mixer_jax.data.read {name}",
        description="\n  ".join([f"Format: {one.title}. Files:", *one.files]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--root", type=Path, required=True, help="the data set's folder")
    add("--out", type=Path, help="the output table (default: ROOT/table.csv)")
    add("--overwrite", action="store_true", help="replace an existing table")
    add(
        "--no-image-check",
        action="store_true",
        help="do not check that the image files exist",
    )
    one.add_options(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    return command.run(lambda: _read(arguments))


def _read(arguments: list[str]) -> None:
    if arguments and arguments[0] in ("-h", "--help"):
        terminal.say(f"{__doc__}\n{readers.listing()}")
        return
    name = "" if not arguments or arguments[0][:1] == "-" else arguments[0]
    left_out = rows.LeftOut()
    one = readers.find(name)
    options = make_parser(name).parse_args(arguments[1:])
    options.out = options.out or options.root / "table.csv"
    home = options.out.parent if one.beside_table else options.root
    place = options.root, home, options.out, options.overwrite
    sample_table.check_out(*place)
    with folder_lock.hold_file(options.out, "--out"):
        # Another run may have written the table since the first check.
        prefix = sample_table.check_out(*place)
        summary = sample_table.build(
            one.read(options.root, options, left_out),
            home,
            options.out,
            left_out,
            prefix=prefix,
            check_images=not options.no_image_check,
            console=terminal.Console(stderr=True),
        )
    terminal.say(f"{options.out}: {summary}")


if __name__ == "__main__":
    sys.exit(main())
