"""A folder for each category: any tree of folders with images in them."""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from mixer_jax.data.readers.rows import Format, LeftOut, Row
from mixer_jax.errors import UserError

SUFFIXES = frozenset(
    (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the option that `read` looks at."""
    parser.add_argument(
        "--splits",
        action="store_true",
        help="the topmost folders are splits (train, test), not categories",
    )


def read(
    root: Path, options: argparse.Namespace, left_out: LeftOut
) -> Iterator[Row]:
    """Yields a row for each image, in the order of their paths.

    Category is the path of the folder that an image lies in ("shoes/1234"),
    group that of the folder around it ("shoes"). Hidden files and folders are
    passed over.

    Raises:
      UserError: if there is no image in a folder.
    """
    count = 0
    for folder, inside, names in os.walk(root):
        inside[:] = sorted(one for one in inside if not one.startswith("."))
        way = Path(folder).relative_to(root).parts
        split = way[0] if options.splits and way else ""
        way = way[1:] if options.splits else way
        for name in sorted(names):
            if name.startswith("."):
                continue
            if Path(name).suffix.lower() not in SUFFIXES:
                left_out["files that are no images"] += bool(way)
                continue
            if not way:
                left_out["images that are in no folder of a category"] += 1
                continue
            image = Path(folder, name).relative_to(root).as_posix()
            if not _is_utf8(image):
                left_out["whose file name is not UTF-8"] += 1
                continue
            count += 1
            category, group = "/".join(way), "/".join(way[:-1])
            yield Row(image, image, "", category, group, split=split)
    if not count:
        raise UserError(
            f"There is no image in a folder of {root}; it should have a "
            "folder for each category, with images "
            f"({', '.join(sorted(SUFFIXES))}) in it."
        )


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


FORMAT = Format(
    "a folder for each category",
    (
        "<category>/<image>: folders may be inside of others",
        "<split>/<category>/<image> with --splits",
    ),
    read,
    add_options,
)
