"""DeepFashion, In-shop Clothes Retrieval: 52,712 photos of 7,982 items.

Format, according to the set's README: `list_eval_partition.txt` has the number
of images in line 1 and the columns `image_name item_id evaluation_status` in
line 2; `list_description_inshop.json` is a list of objects with an item's
`item`, `color` and `description` (a list of sentences). Liu et al., CVPR 2016.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from mixer_jax.data.readers import files
from mixer_jax.data.readers.rows import Format, LeftOut, Row
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import quoted

_COLUMNS = ["image_name", "item_id", "evaluation_status"]
# Split and role for each status; training images have no predefined role.
_STATUS = {
    "train": ("train", ""),
    "query": ("test", "query"),
    "gallery": ("test", "document"),
}
_PARTITION = "Eval/list_eval_partition.txt|list_eval_partition.txt"
_TEXTS = "Anno/list_description_inshop.json|list_description_inshop.json"


def read(
    root: Path, options: argparse.Namespace, left_out: LeftOut
) -> Iterator[Row]:
    """Yields a row for each image of the partition, in file order.

    The category is the item; the group is its folder path ("WOMEN/Dresses").

    Raises:
      UserError: names the file, line and column of the error.
    """
    (path,) = files.require(FORMAT, root, _PARTITION)
    texts = _texts(root)
    # Images are in Img/, as in the original archive, or directly in `root`.
    prefix = "Img/" if (root / "Img" / "img").is_dir() else ""
    expected, header, count = 0, False, 0
    for number, line in files.lines(path):
        cells, where = line.split(), f"{path}, line {number}"
        if not expected:
            expected = _count(line, where)
        elif not header:
            header = _check_header(cells, where)
        else:
            count += 1
            yield _row(cells, where, prefix, texts)
    if count != expected:
        raise UserError(
            f"{path}: the first line says {expected} images, but the file "
            f"lists {count}; is the file complete?"
        )


def _row(
    cells: list[str], where: str, prefix: str, texts: dict[str, str]
) -> Row:
    files.check_words(cells, _COLUMNS, where)
    image, item, status = cells
    if status not in _STATUS:
        raise UserError(
            f"{where}, column evaluation_status: {quoted(status)} is not one "
            f"of {', '.join(_STATUS)}."
        )
    split, role = _STATUS[status]
    # img/WOMEN/Dresses/id_00000002/02_1_front.jpg
    group = "/".join(image.split("/")[1:-2])
    text = texts.get(item, "")
    return Row(image, prefix + image, text, item, group, role, split)


def _count(line: str, where: str) -> int:
    if line.isdecimal() and len(line) < 20 and int(line):
        return int(line)
    raise UserError(
        f"{where}: the first line must be the number of images, not "
        f"{quoted(line)}."
    )


def _check_header(cells: list[str], where: str) -> bool:
    if cells == _COLUMNS:
        return True
    raise UserError(
        f"{where}: the columns must be {' '.join(_COLUMNS)}, not "
        f"{quoted(' '.join(cells))}."
    )


def _texts(root: Path) -> dict[str, str]:
    """Returns the text of each item; {} if the file is missing.

    The text of an item with several colors lists all of them, followed by its
    first description.
    """
    path = files.find(root, _TEXTS)
    if path is None:
        return {}
    colors: dict[str, list[str]] = {}
    descriptions: dict[str, str] = {}
    for where, item in files.json_list(path):
        name = files.cell(item, "item", where)
        sentences = item.get("description")
        if isinstance(sentences, str):
            sentences = [sentences]
        else:
            sentences = files.values(item, "description", where)
        words = " ".join(str(one).strip() for one in sentences)
        descriptions[name] = descriptions.get(name) or words.strip()
        color = str(item.get("color") or "").strip()
        if color and color not in colors.setdefault(name, []):
            colors[name].append(color)
    return {
        name: ". ".join(filter(None, [", ".join(colors.get(name, [])), words]))
        for name, words in descriptions.items()
    }


FORMAT = Format(
    "DeepFashion In-shop Clothes Retrieval",
    (
        "Eval/list_eval_partition.txt: image_name item_id evaluation_status",
        "Anno/list_description_inshop.json: the texts; may be missing",
        "img/WOMEN/ and img/MEN/ (or Img/img/...): the images of img.zip",
    ),
    read,
)
