"""Any CSV or Parquet table, with its columns mapped to sample columns."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mixer_jax.data.readers import files
from mixer_jax.data.readers.rows import Format, LeftOut, Row
from mixer_jax.data.tables import rules
from mixer_jax.runtime import parsing
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import tables
from mixer_jax.runtime.text import did_you_mean, quoted

_OUTSIDE, _SPLIT = re.compile(rules.OUTSIDE), re.compile(rules.SPLIT)
_TEXT = (".csv", ".tsv", ".csv.gz", ".tsv.gz")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `read` to a parser."""
    add = parser.add_argument
    add(
        "--source",
        required=True,
        help=f"the table, relative to --root: {', '.join(_TEXT)} or .parquet",
    )
    add(
        "--column",
        required=True,
        action="append",
        type=parsing.any_text,
        help="OURS=THEIRS, a column's name in the new table and in the source, "
        "as in category_id=sku; repeatable; OURS is one of "
        f"{', '.join(rules.COLUMNS)}",
    )
    add(
        "--image-path",
        default="{}",
        help="path of an image, with {} for its cell, as in images/{}.jpg",
    )
    add(
        "--delimiter",
        type=_delimiter,
        help="character between cells (default: a comma, a tab for .tsv)",
    )


def read(
    root: Path, options: argparse.Namespace, left_out: LeftOut
) -> Iterator[Row]:
    """Yields a row for each row of the table, in order.

    Columns that are not mapped are empty. A missing `role` or `split` is then
    chosen by a hash, and a missing `sample_id` is the row's number.

    Raises:
      UserError: names the file, line and column of the error.
    """
    mapping = parse_columns(options.column)
    if options.image_path.count("{}") != 1:
        raise UserError(
            f"--image-path is {options.image_path!r}; it must contain {{}} "
            "exactly once, as the placeholder for the image cell."
        )
    path = root / options.source
    if not path.exists():
        raise files.missing(FORMAT, root, options.source)
    if path.resolve() == options.out.resolve():
        raise UserError(
            f"--out is the source itself, {path}; give another path."
        )
    name = path.name.lower()
    if path.is_dir() or name.endswith(".parquet"):
        records = _parquet(path, mapping)
    elif name.endswith(_TEXT):
        tabs = name.endswith((".tsv", ".tsv.gz"))
        delimiter = options.delimiter or ("\t" if tabs else ",")
        wanted = list(dict.fromkeys(mapping.values()))
        hint = f"; set --delimiter if {delimiter!r} does not separate the cells"
        records = files.records(path, wanted, delimiter, hint)
    else:
        raise UserError(
            f"{path} must be a {', '.join(_TEXT)} or .parquet file, or a "
            "folder of CSV or Parquet files."
        )
    for number, (where, cells) in enumerate(records, start=1):
        ours = {a: cells[b].strip(" \t") for a, b in mapping.items()}
        ours.setdefault("sample_id", str(number))
        if ours.get("image"):
            ours["image"] = options.image_path.replace("{}", ours["image"])
        row = Row(**{"image": "", "text": "", **ours})
        if not row.category_id:
            left_out["without a category"] += 1
        elif not row.image and (not row.text or row.role == rules.QUERY):
            left_out["without an image"] += 1
        else:
            _check(row, where, mapping)
            yield row


def parse_columns(given: list[str]) -> dict[str, str]:
    """Returns a mapping from sample columns to source columns.

    Args:
      given: values of --column, such as ["text=title", "image=file"].

    Raises:
      UserError: if a sample column is unknown, given twice, or missing.
    """
    mapping: dict[str, str] = {}
    for pair in given:
        ours, _, theirs = pair.partition("=")
        if not theirs:
            raise UserError(
                f"--column is {pair!r}; write OURS=THEIRS, as in text=title."
            )
        if ours not in rules.COLUMNS:
            hint = did_you_mean(ours, rules.COLUMNS) or "."
            raise UserError(
                f"--column names {ours!r}, which is not one of "
                f"{', '.join(rules.COLUMNS)}{hint}"
            )
        if ours in mapping:
            raise UserError(f"--column names {ours!r} twice.")
        mapping[ours] = theirs
    if "category_id" not in mapping:
        raise UserError(
            "--column must name a category_id; without one, find categories "
            "in a click log with mixer_jax.categorize."
        )
    if not {"image", "text"} & set(mapping):
        raise UserError("--column must name an image, a text, or both.")
    return mapping


def _delimiter(text: str) -> str:
    r"""Returns the value of --delimiter, a character or the escape "\t"."""
    text = "\t" if text == r"\t" else text
    if len(text) != 1 or text in '\r\n"':
        raise argparse.ArgumentTypeError(
            f"{text!r} must be one character other than a quote or newline"
        )
    return text


class _Record(NamedTuple):
    """Reference to a record; `str` looks up its file and row, which is slow."""

    table: Path
    number: int

    def __str__(self) -> str:
        """Returns the file and row of the record."""
        return tables.name_records(self.table, [self.number])[0]


def _check(row: Row, where: str | _Record, mapping: dict[str, str]) -> None:
    if row.role not in ("", rules.QUERY, rules.DOCUMENT):
        raise UserError(
            f"{where}, column {mapping['role']}: the role is "
            f"{quoted(row.role)}; it must be 'query', 'document' or empty."
        )
    if row.split and not _SPLIT.fullmatch(row.split):
        raise UserError(
            f"{where}, column {mapping['split']}: the split is "
            f"{quoted(row.split)}; it must be a name or name/part, made of "
            "letters, digits, '_' and '-'."
        )
    if _OUTSIDE.search(row.image):
        raise UserError(
            f"{where}, column {mapping['image']}: the path "
            f"{quoted(row.image)} must be relative to --root and inside it."
        )
    if not row.sample_id:
        raise UserError(
            f"{where}, column {mapping['sample_id']}: a sample needs an ID."
        )


def _parquet(
    path: Path, mapping: dict[str, str]
) -> Iterator[tuple[_Record, dict[str, str]]]:
    """Yields `(where, cells)` for each row of a Parquet file or folder."""
    wanted = tuple(dict.fromkeys(mapping.values()))
    ids = (mapping.get("sample_id", ""), mapping["category_id"])
    layout = tables.Layout(wanted, ids=ids)
    for batch in tables.batches(path, layout):
        start = int(batch.rows.index[0]) if len(batch.rows) else 0
        cells = (batch.rows[name].tolist() for name in wanted)
        for number, row in enumerate(zip(*cells, strict=True), start):
            yield _Record(path, number), dict(zip(wanted, row, strict=True))


FORMAT = Format(
    "a CSV or Parquet table",
    ("the table that --source names", "the images that its cells name"),
    read,
    add_options,
)
