"""Interface of readers, which convert data sets' files into rows."""

import argparse
import collections
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

# Number of samples left out per reason, such as "without a category".
LeftOut = collections.Counter[str]


class Row(NamedTuple):
    """A sample as read from a data set.

    Attributes:
      sample_id: a unique ID; if rows share one, only the first is kept.
      image: path relative to the data set's folder, "" if none.
      text: title or description, "" if none; dropped for queries.
      category_id: the category of what the sample shows.
      group: a coarser label, "" if none.
      role: "query" or "document"; "" lets `roles.draw` choose.
      split: "train", "test" or another name; "" splits by a hash of the
        category.
    """

    sample_id: str
    image: str
    text: str
    category_id: str
    group: str = ""
    role: str = ""
    split: str = ""


def left_out_text(left_out: LeftOut) -> str:
    """Returns the reasons with their counts as text, "none" if empty."""
    counts = (f"{why} ({count:,})" for why, count in left_out.items() if count)
    return ", ".join(counts) or "none"


@dataclasses.dataclass(frozen=True)
class Format:
    """A data set's format.

    Attributes:
      title: the data set's name, as its publishers write it.
      files: the data set's files and their locations, one line each.
      read: called with the data set's folder, the command-line options and the
        counts of left-out samples, which it updates; yields the rows in a
        deterministic order.
      add_options: adds the options of `read` to a parser.
      beside_table: whether `read` writes images to the folder of the table
        (`options.out`); the rows' paths are then relative to that folder.
    """

    title: str
    files: tuple[str, ...]
    read: Callable[[Path, argparse.Namespace, LeftOut], Iterator[Row]]
    add_options: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    beside_table: bool = False
