"""Shopee, Price Match Guarantee: 34,250 postings of 11,014 products.

Format, according to the competition's data page: `train.csv` with the columns
posting_id, image, image_phash, title and label_group; the images are in
`train_images/`. The labels of its test set are not public.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from mixer_jax.data.readers import files
from mixer_jax.data.readers.rows import Format, LeftOut, Row

_COLUMNS = ("posting_id", "image", "title", "label_group")


def read(
    root: Path, options: argparse.Namespace, left_out: LeftOut
) -> Iterator[Row]:
    """Yields a row for each posting, in file order.

    Raises:
      UserError: names the file, line and column of the error.
    """
    (path,) = files.require(FORMAT, root, "train.csv")
    for where, cells in files.records(path, _COLUMNS):
        yield Row(
            files.cell(cells, "posting_id", where),
            f"train_images/{files.cell(cells, 'image', where)}",
            cells["title"],
            files.cell(cells, "label_group", where),
        )


FORMAT = Format(
    "Shopee - Price Match Guarantee",
    (
        "train.csv: posting_id,image,image_phash,title,label_group",
        "train_images/: the images",
    ),
    read,
)
