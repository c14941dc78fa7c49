"""Reads sample tables batch by batch, in bounded memory.

`table.read_table` uses the same reader, so a table has the same rows and the
same faults however it is read.
"""

import os
from collections.abc import Iterator

from mixer_jax.data.tables import rules
from mixer_jax.runtime.tabular import tables
from mixer_jax.runtime.tabular.tables import BLOCK, ROWS, Batch, name_records

__all__ = ["BLOCK", "ROWS", "Batch", "batches", "name_records"]


def batches(
    path: str | os.PathLike, rows: int = ROWS, block: int = BLOCK
) -> Iterator[Batch]:
    """Yields a sample table's rows in order; see `tables.batches`.

    Raises:
      UserError: if the table is missing or unreadable, or its columns are not
        `rules.COLUMNS`. Cells are not checked.
    """
    return tables.batches(path, rules.LAYOUT, rows=rows, block=block)
