"""What a reader is: a public data set's own files -> rows of samples."""

import argparse
import collections
import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

# Counts of what a reader leaves out, by the reason: "whose image is missing".
LeftOut = collections.Counter[str]


class Row(NamedTuple):
    """A sample as a reader found it.

    Attributes:
      sample_id: a name of its own; of two rows with one ID the first is kept.
      image: path relative to the data set's folder, "" if none.
      text: title or description, "" if none; a query's is dropped.
      category_id: what the sample shows.
      group: a coarser label, "" if none.
      role: "query" or "document"; "" lets `roles.draw` choose.
      split: "train", "test" ...; "" splits by a hash of the category.
    """

    sample_id: str
    image: str
    text: str
    category_id: str
    group: str = ""
    role: str = ""
    split: str = ""


def left_out_text(left_out: LeftOut) -> str:
    """Returns the counts and reasons as text, "none" if empty."""
    counts = (f"{count:,} {why}" for why, count in left_out.items() if count)
    return ", ".join(counts) or "none"


def _no_options(parser: argparse.ArgumentParser) -> None:
    """Adds no option."""


@dataclasses.dataclass(frozen=True)
class Format:
    """A data set's format.

    Attributes:
      title: its name, as its publishers write it.
      files: which files it has and where they should be, a line each.
      read: from the set's folder, the options of the command line and the
        counts of what is left out to the rows, in an order that is always
        the same.
      add_options: adds the options that `read` looks at to a parser.
      beside_table: whether `read` writes images of its own, into the folder of
        the table (`options.out`); its rows' paths are relative to that then.
    """

    title: str
    files: tuple[str, ...]
    read: Callable[[Path, argparse.Namespace, LeftOut], Iterator[Row]]
    add_options: Callable[[argparse.ArgumentParser], None] = _no_options
    beside_table: bool = False


def digest(*words: str) -> int:
    """Returns a number of 160 bits that depends on the words alone."""
    return int(hashlib.sha1("\0".join(words).encode()).hexdigest(), 16)


def is_test(category_id: str) -> bool:
    """Whether a category is one of the tenth that is never trained on."""
    return digest(category_id) % 10 == 0
