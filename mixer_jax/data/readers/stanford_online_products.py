"""Stanford Online Products: 120,053 photos of 22,634 products (eBay).

Format, according to the set's README: `Ebay_train.txt` and `Ebay_test.txt` with
the space-separated columns `image_id class_id super_class_id path`, named in
the first line. Song et al., arXiv 1511.06452.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from mixer_jax.data.readers import files
from mixer_jax.data.readers.rows import Format, LeftOut, Row
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import quoted

_COLUMNS = ["image_id", "class_id", "super_class_id", "path"]
_SPLITS = {"train": "Ebay_train.txt", "test": "Ebay_test.txt"}


def read(
    root: Path, options: argparse.Namespace, left_out: LeftOut
) -> Iterator[Row]:
    """Yields a row for each image, in file order.

    The category is the class; the group is the super-class, named by its folder
    ("bicycle"). Train and test share no class.

    Raises:
      UserError: names the file, line and column of the error.
    """
    paths = files.require(FORMAT, root, *_SPLITS.values())
    for split, path in zip(_SPLITS, paths, strict=True):
        header = False
        for number, line in files.lines(path):
            cells = line.split(maxsplit=3)
            where = f"{path}, line {number}"
            if not header:
                if cells != _COLUMNS:
                    raise UserError(
                        f"{where}: the first line must be "
                        f"'{' '.join(_COLUMNS)}', not {quoted(line)}."
                    )
                header = True
                continue
            files.check_words(cells, _COLUMNS, where)
            _, category, _, image = cells
            if not category.isdigit():
                raise UserError(
                    f"{where}, column class_id: {quoted(category)} is not a "
                    "number."
                )
            group = image.split("/")[0].removesuffix("_final")
            yield Row(image, image, "", category, group, split=split)


FORMAT = Format(
    "Stanford Online Products",
    (
        "Ebay_train.txt, Ebay_test.txt: image_id class_id super_class_id path",
        "bicycle_final/ ... toaster_final/: the images of twelve super-classes",
    ),
    read,
)
