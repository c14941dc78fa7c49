"""Samples left out because of unreadable images."""

import collections
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from mixer_jax.data.images import checking, faults
from mixer_jax.data.tables import near_paths, table
from mixer_jax.retrieval.sharded.layout import Skipped
from mixer_jax.runtime.tabular import references, tables


class Limit(NamedTuple):
    """The maximum share of a table's samples that may be left out.

    Attributes:
      path: the table.
      total: the number of its samples.
      share: the maximum share.
      folder: the folder of the pictures, if they are not listed in a table.
    """

    path: pathlib.Path
    total: int
    share: float
    folder: pathlib.Path | None = None

    def check(self, left_out: Sequence[Skipped]) -> None:
        """Raises a `UserError` if these samples exceed the limit."""
        if len(left_out) > self.share * self.total:
            self.describe(left_out)

    def describe(self, left_out: Sequence[Skipped]) -> table.Skipped:
        """Returns a description of the samples.

        Raises:
          UserError: if they exceed the limit; lists the first ten.
        """
        root = self.folder or table.folder(self.path)
        some = left_out[: table.LISTED]
        lines = [_message(one, root) for one in some]
        remedy = "Repair or remove these files"
        if self.folder is None:
            rows = tables.name_records(self.path, [one.row for one in some])
            lines = [": ".join(pair) for pair in zip(rows, lines, strict=True)]
            remedy = checking.remedy(root)
        kinds = collections.Counter(one.kind for one in left_out)
        skipped = table.Skipped(
            "unreadable images",
            len(left_out),
            self.total,
            tuple(lines),
            {kind: kinds[kind] for kind in faults.KINDS},
        )
        return skipped.require(self.share, remedy)


def _message(one: Skipped, root: pathlib.Path) -> str:
    path = root / one.image
    is_missing = one.kind == faults.MISSING
    hint = near_paths.hint(path, root) if is_missing else ""
    return f"{references.label(path)}{one.reason}{hint}"


def csv_text(left_out: Sequence[Skipped]) -> str:
    """Returns the samples as a CSV table."""
    frame = pd.DataFrame(
        {
            "sample_id": [one.sample_id for one in left_out],
            "image": [one.image for one in left_out],
            "kind": [one.kind for one in left_out],
            "reason": [
                f"{references.label(one.image)}{one.reason}" for one in left_out
            ],
            "row": [one.row + 1 for one in left_out],
        }
    )
    return tables.csv_text(frame)
