"""Sample tables in files, read batch by batch in bounded memory.

Whole tables are read by it too (`table.read_table`), so a table is the same
and has the same faults however it is read.
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
      UserError: if the table is missing or cannot be read, or its columns are
        not `rules.COLUMNS`; cells are not checked.
    """
    return tables.batches(path, rules.LAYOUT, rows=rows, block=block)
