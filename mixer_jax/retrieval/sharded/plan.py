"""Divides a table of any size into shards, in bounded memory."""

import dataclasses
import io
import json
import os
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mixer_jax.data.tables import category_notes, roots, rules, validation
from mixer_jax.retrieval.sharded import layout
from mixer_jax.retrieval.sharded.layout import Shard
from mixer_jax.runtime import identity, paths, progress
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import boxes, tables
from mixer_jax.runtime.tabular import parts as parts_lib

_COMPARED = 1 << 22  # IDs compared at once; takes 32 MB
_UNUSED = ("role", "category_id", "group", "split")
_ROW = "row"  # the column with the row's number in the table


def make(
    table: str | os.PathLike,
    folder: paths.Path,
    shard_rows: int,
    image_roots: str = "",
) -> list[Shard]:
    """Writes the rows of each shard of a table to a file, and the plan.

    Args:
      table: a sample table.
      folder: the folder of the embeddings.
      shard_rows: the number of rows per shard; each role's last may be smaller.
      image_roots: folders that images must be in, see `roots.rules`.

    Raises:
      UserError: names the file, row and column of the table's first error.
    """
    shards: list[Shard] = []
    kept = {role: _Kept(role, folder, shard_rows) for role in layout.FOLDERS}
    # The table may be too large for the system's temporary folder.
    place = None if paths.is_remote(folder) else folder / layout.WORK
    if place is not None:
        paths.make_folder(place)
    with tempfile.TemporaryFile(dir=place) as hashes:
        for batch in _read(table, image_roots):
            hashes.write(category_notes.hash_cells(batch["sample_id"]).data)
            for role, rows in kept.items():
                shards += rows.add(batch[batch["role"] == role])
        for rows in kept.values():
            shards += rows.finish()
        if not shards:
            raise UserError(
                f"The sample table {table} has no rows, only a header."
            )
        if _has_repeated(hashes):
            validation.check(table)  # raises an error that names the ID
    shards.sort(key=lambda one: (one.role != rules.QUERY, one.number))
    text = json.dumps(shards)
    layout.write_bytes(folder / layout.PLAN, text.encode())
    return shards


def read(folder: paths.Path) -> list[Shard]:
    """Returns the shards planned by `make`."""
    text = (folder / layout.PLAN).read_text("utf-8")
    return [Shard(*one) for one in json.loads(text)]


def read_rows(folder: paths.Path, shard: Shard) -> pd.DataFrame:
    """Returns a shard's rows: sample_id, image and text.

    The index is the row's number in the table.
    """
    content = (folder / shard.rows_name).read_bytes()
    frame = pq.read_table(io.BytesIO(content)).to_pandas()
    return frame.set_index(_ROW)


def _read(path: str | os.PathLike, image_roots: str) -> Iterator[pd.DataFrame]:
    """Yields batches of a table's rows, checked by all rules but `REPEATED`."""
    alone = [rule for rule in rules.RULES if rule is not rules.REPEATED]
    alone += roots.rules(parts_lib.parent(path), image_roots)
    done = 0.0
    with progress.show("Reading the table", 1.0) as count:
        for batch in tables.batches(path, rules.LAYOUT):
            for fault in rules.faults(batch.rows, alone):
                row = int(batch.rows.index[fault.row])
                (where,) = tables.name_records(path, [row])
                raise UserError(fault.describe(where))
            yield boxes.join(batch.rows)
            count(batch.done - done)
            done = batch.done


@dataclasses.dataclass
class _Kept:
    """Rows of one role that do not fill a shard yet."""

    role: str
    folder: paths.Path
    shard_rows: int
    number: int = 0
    frames: list[pd.DataFrame] = dataclasses.field(default_factory=list)

    def add(self, frame: pd.DataFrame) -> Iterator[Shard]:
        """Adds rows; yields the shards that are full."""
        self.frames.append(frame)
        if sum(map(len, self.frames)) < self.shard_rows:
            return
        whole = pd.concat(self.frames)
        end = len(whole) // self.shard_rows * self.shard_rows
        for start in range(0, end, self.shard_rows):
            yield self._write(whole.iloc[start : start + self.shard_rows])
        self.frames = [whole.iloc[end:]]

    def finish(self) -> Iterator[Shard]:
        """Yields the last shard, if rows are left."""
        if any(map(len, self.frames)):
            yield self._write(pd.concat(self.frames))

    def _write(self, frame: pd.DataFrame) -> Shard:
        frame = frame.drop(columns=[*_UNUSED])
        key = identity.hash_rows(frame)
        ids = int(frame["sample_id"].str.encode("utf-8").str.len().sum())
        shard = Shard(self.role, self.number, len(frame), ids, key)
        columns = {_ROW: frame.index.to_numpy(np.int64)}
        columns |= {name: pa.array(frame[name]) for name in frame}
        content = io.BytesIO()
        pq.write_table(pa.table(columns), content, compression="zstd")
        path = self.folder / shard.rows_name
        layout.write_bytes(path, content.getvalue(), sync=False)
        self.number += 1
        return shard


def _has_repeated(hashes: BinaryIO) -> bool:
    """Returns whether a file of uint64 numbers contains duplicates."""
    count = hashes.tell() // 8
    passes = -(-count // _COMPARED)
    for number in range(passes):
        hashes.seek(0)
        found = []
        while content := hashes.read(8 * _COMPARED):
            some = np.frombuffer(content, np.uint64)
            found.append(some[some % np.uint64(passes) == number])
        ours = np.sort(np.concatenate(found))
        if (ours[1:] == ours[:-1]).any():
            return True
    return False
