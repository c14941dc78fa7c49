"""Builds a sample table from a reader's rows, with pyarrow columns.

Unsuitable samples are left out and counted: repeated samples, samples with a
missing image, training samples that show an image of another split, and
training samples that are alone in their category.
"""

import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from mixer_jax.data.readers import roles
from mixer_jax.data.readers.rows import LeftOut, Row, left_out_text
from mixer_jax.data.tables import near_paths, rules, validation
from mixer_jax.data.tables.holdout import is_test
from mixer_jax.runtime import files, progress
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import tables
from mixer_jax.runtime.terminal import Console
from mixer_jax.runtime.text import quoted

_ROWS = 65_536  # rows converted to Python objects at a time
_RULES = [rule for rule in rules.RULES if rule is not rules.REPEATED]


@dataclasses.dataclass(frozen=True)
class Summary:
    """Counts of a new table, and of the samples left out.

    Attributes:
      samples: number of samples.
      categories: number of categories.
      splits: numbers of queries and documents by split.
      left_out: number of left-out samples by reason.
    """

    samples: int
    categories: int
    splits: dict[str, tuple[int, int]]
    left_out: LeftOut

    def __str__(self) -> str:
        splits = ", ".join(
            f"{name} {queries:,} queries and {documents:,} documents"
            for name, (queries, documents) in self.splits.items()
        )
        return (
            f"{self.samples:,} samples of {self.categories:,} categories: "
            f"{splits}; left out: {left_out_text(self.left_out)}"
        )


def check_out(root: Path, home: Path, out: Path, overwrite: bool) -> str:
    """Checks the output path and returns the prefix of image paths.

    Args:
      root: the data set's folder.
      home: the folder that the reader's image paths are relative to.
      out: the table's path.
      overwrite: whether an existing table may be replaced.

    Returns:
      The path of `home` relative to the table's folder, "" or "a/b/".

    Raises:
      UserError: if the table cannot or must not be written there.
    """
    if not root.is_dir():
        raise UserError(f"--root={root} is not a folder.")
    if out.suffix not in (".csv", ".parquet"):
        raise UserError(f"--out={out} must be a .csv or a .parquet file.")
    if out.is_dir():
        raise UserError(f"--out={out} is a folder; give the path of a file.")
    if out.exists() and not overwrite:
        raise UserError(
            f"{out} already exists; give --overwrite to replace it, or another "
            "--out."
        )
    files.check(out, "The table")
    # Resolve links only if the relative path would otherwise be wrong: `..`
    # after a link leads to the parent of the link's target.
    relative = Path(os.path.relpath(home, out.parent))
    if os.path.realpath(out.parent / relative) != os.path.realpath(home):
        resolved = map(os.path.realpath, (home, out.parent))
        relative = Path(os.path.relpath(*resolved))
    if ".." in relative.parts:
        raise UserError(
            "A table can only refer to images inside its own folder, but "
            f"{home} is not inside {out.parent}; give an --out in {home} or "
            "above it."
        )
    return "" if relative == Path(".") else f"{relative.as_posix()}/"


def build(
    rows: Iterable[Row],
    home: Path,
    out: Path,
    left_out: LeftOut,
    *,
    prefix: str = "",
    check_images: bool = True,
    console: Console | None = None,
) -> Summary:
    """Writes a reader's rows as a sample table, atomically.

    Args:
      rows: the reader's rows.
      home: the folder that their image paths are relative to.
      out: the table's path, `.csv` or `.parquet`.
      left_out: the reader's counts, updated with the samples left out here.
      prefix: prepended to the image paths; see `check_out`.
      check_images: whether to leave out samples whose image file is missing.
      console: shows the progress; None for no progress display.

    Returns:
      A summary of the table.

    Raises:
      UserError: if there are no samples or no image files, a category is in
        two splits, or a row breaks a rule of sample tables.
    """
    console = console or Console(quiet=True)
    columns = _collect(rows, console)
    columns = _without_repeated(columns, left_out)
    if check_images:
        columns = _with_images(columns, home, left_out, console)
    if not columns.num_rows:
        raise UserError(
            f"There are no samples in {home}; left out: "
            f"{left_out_text(left_out)}."
        )
    columns = _split(columns)
    columns = _trainable(columns, left_out)
    if not columns.num_rows:
        raise UserError(
            f"No category in {home} has two training samples, and there are "
            f"no test samples; left out: {left_out_text(left_out)}."
        )
    columns = _with_roles(columns)
    if prefix:
        image = columns["image"]
        moved = pc.binary_join_element_wise(
            pa.scalar(prefix, image.type), image, pa.scalar("", image.type)
        )
        image = pc.if_else(pc.equal(image, ""), image, moved)
        columns = _replaced(columns, image=image)
    _write(columns, out)
    return _summary(columns, left_out)


def _collect(rows: Iterable[Row], console: Console) -> pa.Table:
    """Packs rows into columns; collapses runs of whitespace in texts."""
    schema = pa.schema([(name, pa.large_string()) for name in Row._fields])
    batches, rows = [], iter(rows)
    with progress.show("Reading samples", console=console) as count:
        while chunk := list(itertools.islice(rows, _ROWS)):
            cells = dict(
                zip(Row._fields, zip(*chunk, strict=True), strict=True)
            )
            cells["text"] = [" ".join(text.split()) for text in cells["text"]]
            batches.append(_batch(cells, schema))
            count(len(chunk))
    return pa.Table.from_batches(batches, schema)


def _batch(
    cells: dict[str, Sequence[str]], schema: pa.Schema
) -> pa.RecordBatch:
    try:
        return pa.RecordBatch.from_pydict(cells, schema)
    except UnicodeEncodeError:
        # JSON may contain lone surrogates. Replace them with question marks in
        # texts and escapes elsewhere, so that different IDs stay different.
        whole = {}
        for name, column in cells.items():
            how = "replace" if name == "text" else "backslashreplace"
            whole[name] = [one.encode("utf-8", how).decode() for one in column]
        return pa.RecordBatch.from_pydict(whole, schema)


def _without_repeated(columns: pa.Table, left_out: LeftOut) -> pa.Table:
    codes, _ = _codes(columns["sample_id"])
    first = np.zeros(len(codes), bool)
    first[np.unique(codes, return_index=True)[1]] = True
    return _kept(columns, first, left_out, "with a repeated ID")


def _with_images(
    columns: pa.Table, root: Path, left_out: LeftOut, console: Console
) -> pa.Table:
    codes, names = _codes(columns["image"])
    found = []
    label = "Looking for images"
    with progress.show(label, len(names), console=console) as count:
        for start in range(0, len(names), _ROWS):
            some = names.slice(start, _ROWS).to_pylist()
            found.append(validation.present(root, some))
            count(len(some))
    exists = np.concatenate(found) if found else np.zeros(0, bool)
    wanted = np.asarray(pc.not_equal(names, "").to_pylist(), bool)
    if wanted.any() and not exists[wanted].any():
        first = names[int(np.argmax(wanted))].as_py()
        raise UserError(
            f"None of the {wanted.sum():,} image files exists, for example "
            f"{root / first}; have the images been unpacked?"
            f"{near_paths.hint(root / first, root)}"
        )
    why = "with a missing or empty image file"
    return _kept(columns, exists[codes], left_out, why)


def _split(columns: pa.Table) -> pa.Table:
    """Fills in missing splits by a hash of the category; checks all splits."""
    codes, names = _codes(columns["category_id"])
    test = np.fromiter(
        (is_test(name) for name in _strings(names)), bool, len(names)
    )
    made = pc.if_else(pa.array(test[codes]), "test", "train")
    given = columns["split"]
    split = pc.if_else(pc.equal(given, ""), made.cast(given.type), given)
    columns = _replaced(columns, split=split)
    bases, kinds = _base_splits(columns)
    pairs = np.unique(codes.astype(np.int64) * len(kinds) + bases)
    repeated = np.flatnonzero(np.diff(pairs // len(kinds)) == 0)
    if repeated.size:
        category, one = divmod(int(pairs[repeated[0]]), len(kinds))
        other = int(pairs[repeated[0] + 1]) % len(kinds)
        more = f" (and {repeated.size - 1} more)" if repeated.size > 1 else ""
        raise UserError(
            f"The category {quoted(names[category].as_py())}{more} has "
            f"samples in the splits {kinds[one]!r} and {kinds[other]!r}; a "
            "category must be in only one, or evaluation would use training "
            "data. A data set without splits is split by a hash of the "
            "category."
        )
    return columns


def _trainable(columns: pa.Table, left_out: LeftOut) -> pa.Table:
    """Drops lone training samples and those that show another split's image."""
    bases, kinds = _base_splits(columns)
    train = np.array([kind == "train" for kind in kinds], bool)[bases]
    images, names = _codes(columns["image"])
    seen = np.zeros(len(names), bool)
    seen[images[~train]] = True
    seen &= np.asarray(pc.not_equal(names, "").to_pylist(), bool)
    why = "from train with an image of another split"
    columns = _kept(columns, ~(train & seen[images]), left_out, why)
    train = train[~(train & seen[images])]
    codes, _ = _codes(columns["category_id"])
    lone = train & (np.bincount(codes)[codes] == 1) if len(codes) else train
    why = "from train without another sample in their category"
    return _kept(columns, ~lone, left_out, why)


def _with_roles(columns: pa.Table) -> pa.Table:
    categories, _ = _codes(columns["category_id"])
    images, image_names = _codes(columns["image"])
    shown = np.asarray(pc.not_equal(image_names, "").to_pylist(), bool)[images]
    # An image in several categories never becomes a query: it could retrieve
    # itself as a document of another category, which would count as wrong.
    pairs = np.unique(categories.astype(np.int64) * len(image_names) + images)
    several = np.bincount(pairs % len(image_names))[images] > 1
    given = columns["role"]
    queries = pc.equal(given, rules.QUERY).to_numpy(zero_copy_only=False)
    documents = pc.equal(given, rules.DOCUMENT).to_numpy(zero_copy_only=False)
    documents = documents | ~shown | (several & ~queries)
    names = zip(
        _strings(columns["category_id"]),
        _strings(columns["image"]),
        strict=True,
    )
    query = roles.draw(
        categories, np.where(shown, images, -1), queries, documents, names
    )
    role = pc.if_else(pa.array(query), rules.QUERY, rules.DOCUMENT)
    text = pc.if_else(pa.array(query), "", columns["text"])
    return _replaced(columns, role=role.cast(given.type), text=text)


def _write(columns: pa.Table, path: Path) -> None:
    """Checks that all rows satisfy `rules` and writes the table."""
    columns = columns.select(list(rules.COLUMNS))
    for batch in columns.to_batches(max_chunksize=_ROWS):
        frame = batch.to_pandas()
        for fault in rules.faults(frame, _RULES):
            name = frame["sample_id"].iloc[fault.row]
            raise UserError(fault.describe(f"Sample {quoted(name)}"))
    tables.write(columns, path, "The sample table")


def _summary(columns: pa.Table, left_out: LeftOut) -> Summary:
    counts = pd.crosstab(
        columns["split"].to_pandas(), columns["role"].to_pandas()
    ).reindex(columns=[rules.QUERY, rules.DOCUMENT], fill_value=0)
    splits = {
        name: (int(one[rules.QUERY]), int(one[rules.DOCUMENT]))
        for name, one in counts.iterrows()
    }
    categories = len(_codes(columns["category_id"])[1])
    return Summary(columns.num_rows, categories, splits, left_out)


def _base_splits(columns: pa.Table) -> tuple[np.ndarray, list[str]]:
    """Returns a code for each row's split, ignoring parts, and the names."""
    codes, names = _codes(columns["split"])
    kinds = [name.split("/")[0] for name in names.to_pylist()]
    distinct = sorted(set(kinds))
    return np.array([distinct.index(kind) for kind in kinds])[codes], distinct


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Returns a code for each cell, int64 `[N]`, and the distinct cells."""
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary


def _strings(cells: pa.Array | pa.ChunkedArray) -> Iterator[str]:
    """Yields the cells as strings, converting a limited number at a time."""
    for start in range(0, len(cells), _ROWS):
        yield from cells.slice(start, _ROWS).to_pylist()


def _replaced(columns: pa.Table, **cells: pa.Array) -> pa.Table:
    for name, column in cells.items():
        place = columns.schema.get_field_index(name)
        columns = columns.set_column(place, name, column)
    return columns


def _kept(
    columns: pa.Table, keep: np.ndarray, left_out: LeftOut, why: str
) -> pa.Table:
    left_out[why] += int((~keep).sum())
    # Filtering copies all columns.
    return columns if keep.all() else columns.filter(pa.array(keep))
