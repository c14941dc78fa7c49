"""Any tree of folders with images, in which each folder is a category."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from mixer_jax.data.readers import walk
from mixer_jax.data.readers.rows import Format, LeftOut, Row, left_out_text
from mixer_jax.data.tables import rules
from mixer_jax.runtime import terminal
from mixer_jax.runtime.errors import UserError

SUFFIXES = frozenset(
    (".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png")
    + (".tif", ".tiff", ".webp")
)

_OUTSIDE = re.compile(rules.OUTSIDE)
_SPLITS = {"train", "test"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the option of `read` to a parser."""
    parser.add_argument(
        "--splits",
        action="store_true",
        help="the topmost folders are splits (train, test), not categories",
    )


def read(
    root: Path, options: argparse.Namespace, left_out: LeftOut
) -> Iterator[Row]:
    """Yields a row for each image, ordered by path.

    The category is the path of the image's folder ("shoes/1234"), and the group
    is that of the parent folder ("shoes"). Links are followed, so a folder with
    two names becomes two categories. Skipped entries are counted; see `walk`.

    Raises:
      UserError: if no folder has an image; lists what was left out.
    """
    count, topmost = 0, set()
    table = options.out.resolve()
    for parts, names in walk.walk(root, left_out):
        split = parts[0] if options.splits and parts else ""
        labels = parts[1:] if options.splits else parts
        for name in names:
            if Path(name).suffix.lower() not in SUFFIXES:
                ours = not parts and (root / name).resolve() == table
                left_out["files that are not images"] += not ours
                continue
            if not labels:
                left_out["images outside category folders"] += 1
                continue
            image = "/".join((*parts, name))
            if not walk.is_utf8(image):
                left_out[walk.NOT_UTF8] += 1
                continue
            if _OUTSIDE.search(image):
                left_out["with a path that a table cannot store"] += 1
                continue
            count += 1
            topmost.add(parts[0].lower())
            category, group = "/".join(labels), "/".join(labels[:-1])
            yield Row(image, image, "", category, group, split=split)
    if not count:
        raise UserError(
            f"No folder in {root} contains an image; expected one folder of "
            f"images ({', '.join(sorted(SUFFIXES))}) per category. Left out: "
            f"{left_out_text(left_out)}."
        )
    if not options.splits and topmost >= _SPLITS:
        terminal.say(
            f"note: {root} has folders train and test, which become parts of "
            "category IDs. If they are splits, add --splits.",
            console=terminal.Console(stderr=True),
        )


FORMAT = Format(
    "a folder per category",
    (
        "<category>/<image>: folders may be nested",
        "<split>/<category>/<image> with --splits",
    ),
    read,
    add_options,
)
