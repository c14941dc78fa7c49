"""Products-10K: photos of about 10,000 products (JD.com), labeled by hand.

Format: `train.csv` with the columns name, class and group; the labels of the
test images, `test_kaggletest.csv`, with name, class and Usage. Bai et al.,
arXiv 2008.10545.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from mixer_jax.data.readers import files
from mixer_jax.data.readers.rows import Format, LeftOut, Row

_TEST = "test_kaggletest.csv|test.csv"


def read(
    root: Path, options: argparse.Namespace, left_out: LeftOut
) -> Iterator[Row]:
    """Yields a row for each labeled image, training images first.

    The set's test images show the same classes as its training images and are
    not a split by category. All images are read, and split by a hash of the
    class.

    Raises:
      UserError: names the file, line and column of the error.
    """
    (path,) = files.require(FORMAT, root, "train.csv")
    groups = {}
    for where, cells in files.records(path, ("name", "class", "group")):
        category = files.cell(cells, "class", where)
        groups[category] = cells["group"].strip()
        image = f"train/{files.cell(cells, 'name', where)}"
        yield Row(image, image, "", category, groups[category])
    test = files.find(root, _TEST)
    if test is None:
        return
    for where, cells in files.records(test, ("name",)):
        category = cells.get("class", "").strip()
        if not category:
            left_out["without a class"] += 1
            continue
        group = cells.get("group", "").strip() or groups.get(category, "")
        image = f"test/{files.cell(cells, 'name', where)}"
        yield Row(image, image, "", category, group)


FORMAT = Format(
    "Products-10K",
    (
        "train.csv: name,class,group",
        "test_kaggletest.csv (or test.csv): name,class,Usage; may be missing",
        "train/ and test/: the images",
    ),
    read,
)
