"""AliProducts: more than 2.5 million noisy photos of 50,000 products (Alibaba).

Format, according to public code: `train.json` and `val.json` are objects whose
list `images` has objects with image_id (a file name) and class_id; the images
are in `train/<class_id>/` and `val/<class_id>/`. Cheng et al., arXiv
2008.11586.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from mixer_jax.data.readers import files
from mixer_jax.data.readers.rows import Format, LeftOut, Row


def read(
    root: Path, options: argparse.Namespace, left_out: LeftOut
) -> Iterator[Row]:
    """Yields a row for each image, training images first.

    The validation images show the same classes as the training images and are
    not a split by category. All images are read, and split by a hash of the
    class.

    Raises:
      UserError: names the file and item of the error.
    """
    (train,) = files.require(FORMAT, root, "train.json")
    val = root / "val.json"
    for path in (train, val) if val.is_file() else (train,):
        flat: bool | None = None
        for where, item in files.json_items(path, "images"):
            name = files.cell(item, "image_id", where)
            if not item.get("class_id") and item.get("class_id") != 0:
                left_out["without a class"] += 1
                continue
            category = files.cell(item, "class_id", where)
            nested = f"{path.stem}/{category}/{name}"
            if flat is None:  # Some copies have no class folders.
                if (root / nested).is_file():
                    flat = False
                elif (root / path.stem / name).is_file():
                    flat = True
            image = f"{path.stem}/{name}" if flat else nested
            yield Row(image, image, "", category)


FORMAT = Format(
    "AliProducts",
    (
        "train.json, val.json: {images: [{image_id, class_id}, ...]}; val.json "
        "may be missing",
        "train/<class_id>/ and val/<class_id>/: the images",
    ),
    read,
)
