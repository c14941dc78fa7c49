"""Tables whose images are bytes in a column, made from tables with paths."""

import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

from mixer_jax.runtime.tabular import tables


def write(frame, root, path, kind="binary", **settings):
    """Writes a frame as Parquet, with the bytes of its images.

    Args:
      frame: rows with the column `image`, paths relative to `root`.
      root: the folder of the images.
      path: the file to write.
      kind: "binary", "large", "struct" or "dictionary".
      **settings: arguments of `pyarrow.parquet.write_table`.
    """
    cells = [
        (pathlib.Path(root) / name).read_bytes() if name else None
        for name in frame["image"]
    ]
    if kind == "struct":
        column = pa.array(
            [cell and {"bytes": cell, "path": "x.png"} for cell in cells],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        )
    else:
        wide = {"large": pa.large_binary()}.get(kind, pa.binary())
        column = pa.array(cells, wide)
    if kind == "dictionary":
        column = column.dictionary_encode()
    table = pa.Table.from_pandas(
        frame.drop(columns="image"), preserve_index=False
    ).replace_schema_metadata(None)
    table = table.append_column("image", column)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **settings)
    return path


def convert(path, kind="binary"):
    """Replaces a table with paths by one with bytes; removes the images."""
    frame = tables.read(path, tables.Layout(_columns(path)))
    made = write(frame, path.parent, path.with_suffix(".parquet"), kind)
    for name in {*frame["image"]} - {""}:
        (path.parent / name).unlink(missing_ok=True)
    path.unlink()
    return made


def _columns(path):
    with open(path, encoding="utf-8") as file:
        return tuple(file.readline().strip().split(","))
