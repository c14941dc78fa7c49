"""Writes CARD.md and ATTRIBUTION.md next to the icon table."""

import dataclasses
import numbers
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from mixer_jax.data.tables import table
from mixer_jax.demo import icon_names
from mixer_jax.runtime import files

_CARD = """\
# The icons: {rows:,} samples of {categories:,} categories

{name} is a sample table; its images are {size} x {size} pixels, on white.

| split | categories | queries | documents |
|---|---|---|---|
{splits}

## Source

{source}

Each of its sets has its own license: ATTRIBUTION.md lists set, author, license
and number of samples.{only}

- Category: an icon's name without its style, that is, without the prefixes and
  suffixes that its set lists and without trailing words such as `outline` or
  `bold`. Words that may also mean a thing (`line` in `chart-line`) count as
  style only if more than a twentieth of the set's names end in them.
- Roles: a hash of category and vendor decides which vendors' icons are queries
  and which are documents, so the two come from different vendors. {unasked:,}
  categories have only documents and no queries.
- Text of a document: the name in words; the icon's other names in its set, and
  tags from the set's own package if they were fetched; the icon's label.
- Group: the label that most sets give the category ("arrows"), else the kind
  of its sets if it describes the subject ("logos"), else empty.
- Split: test categories are those whose name without skin tone has a SHA-1
  that ends in 0 in decimal notation. They are never trained on.
{unseen}
## Icons left out

| reason | icons |
|---|---|
{left_out}
{faults}
## Limitations

- The name is the label. "apple" is a fruit and a brand; a two-letter code is a
  flag, a currency and a file type; home and house are two categories.
- Sets that copy each other count as one vendor. In the test categories, so do
  all sets of one author; in the training categories they do not, so a query
  and a document may be one author's drawing in two styles.
- No picture of one split is identical to a picture of the other. However,
  vendors copy each other with small changes, and a drawing may have two names.
- Vendors that draw the logo of a brand draw nearly the same picture, so
  categories of the group "logos" are easier than the others.
- {emoji:,} samples are from emoji sets, and the split is by name, not by code
  point: a model trained on them must not be evaluated on the test categories
  of the emoji tables, which show Twemoji and OpenMoji. To prevent this, drop
  the rows of these sets, by the prefix of their `sample_id`, before training
  (and raise `data.max_skipped` for the few samples that lose their partners):
{emoji_sets}

## How to train on it

Set `data.table` to the path of {name}; or set `data.source = "icons"` and
`data.table` to a path that does not exist yet, to have the table built there
with images of 96 pixels. Training then writes the rows of its split to
array_record files. This command does so in advance:

    python -m mixer_jax.data.prepare --table={name}
"""
_UNSEEN = """\
- Unseen vendors: val categories are those where it ends in 1. All queries of
  test and val are from vendors that are not in train, and all their documents
  from other vendors. All sets of one author count as one vendor.
{test}
{val}
"""
_ATTRIBUTION = """\
# Attribution

The pictures in `images/` are renderings of others' work, {size} pixels wide;
icons without a color of their own were drawn in dark gray. The pictures of each
set are in the folder named after its prefix.

| prefix | set | author | license | samples |
|---|---|---|---|---|
{sets}
"""
_LISTED = 10  # maximum number of faults listed in the card


@dataclasses.dataclass(frozen=True)
class Build:
    """Settings and statistics of a table build.

    Attributes:
      table: name of the table's file.
      source: a sentence that names the source.
      size: side of the images in pixels.
      permissive: whether only sets with permissive licenses were used.
      unseen: whether the queries of test and val are from unseen vendors.
      left_out: number of excluded icons, by reason.
      faults: one line for each icon that cannot be drawn.
    """

    table: str
    source: str
    size: int
    permissive: bool
    unseen: bool
    left_out: dict[str, int]
    faults: list[str]


def write(
    root: Path,
    frame: pd.DataFrame,
    infos: dict[str, dict[str, Any]],
    build: Build,
) -> None:
    """Writes CARD.md and ATTRIBUTION.md into a folder.

    Args:
      root: the folder of the table.
      frame: the table.
      infos: Iconify's `info` of each set, by prefix.
      build: settings and statistics of the table build.
    """
    files.write_text(root / "CARD.md", _card(frame, infos, build))
    text = attribution(frame, infos, build.size)
    files.write_text(root / "ATTRIBUTION.md", text)


def _card(
    frame: pd.DataFrame, infos: dict[str, dict[str, Any]], build: Build
) -> str:
    splits = [
        (
            name,
            rows["category_id"].nunique(),
            (rows["role"] == table.QUERY).sum(),
            (rows["role"] == table.DOCUMENT).sum(),
        )
        for name, rows in frame.groupby("split")
    ]
    emoji = [
        prefix
        for prefix in sorted(set(_prefixes(frame)))
        if icon_names.is_emoji(prefix)
    ]
    faults = "".join(f"- {fault}\n" for fault in build.faults[:_LISTED])
    return _CARD.format(
        rows=len(frame),
        categories=frame["category_id"].nunique(),
        name=build.table,
        size=build.size,
        source=build.source,
        unseen=_unseen(frame, infos) if build.unseen else "",
        only=" Only sets with permissive licenses were used."
        * build.permissive,
        splits=lines(splits),
        left_out=lines(build.left_out.items()),
        faults=f"\nThe first icons that cannot be drawn:\n\n{faults}"
        * bool(faults),
        unasked=frame["category_id"].nunique()
        - frame["category_id"][frame["role"] == table.QUERY].nunique(),
        emoji=_prefixes(frame).isin(emoji).sum(),
        emoji_sets=_fill((f"`{prefix}:`" for prefix in emoji), "  "),
    )


def _unseen(frame: pd.DataFrame, infos: dict[str, dict[str, Any]]) -> str:
    """Lists the vendors of the queries of test and val."""
    makers = {
        prefix: icon_names.maker(prefix, info["author"]["name"])
        for prefix, info in infos.items()
    }
    of_row = _prefixes(frame).map(makers)
    queries = frame["role"] == table.QUERY
    lists = {
        split: _fill(
            sorted(of_row[queries & (frame["split"] == split)].unique()),
            f"  - {split}: ",
        )
        for split in ("test", "val")
    }
    return _UNSEEN.format(**lists)


def _fill(words: Iterable[str], first: str) -> str:
    """Returns a list of words as lines, of which the first starts so."""
    return textwrap.fill(
        ", ".join(words) or "none",
        width=79,
        initial_indent=first,
        subsequent_indent="    " if first.strip() else first,
        break_on_hyphens=False,
    )


def attribution(
    frame: pd.DataFrame, infos: dict[str, dict[str, Any]], size: int
) -> str:
    """Returns the text of ATTRIBUTION.md.

    Args:
      frame: samples whose `sample_id` starts with a set's prefix and a colon.
      infos: Iconify's `info` of each set, by prefix.
      size: side of the images in pixels.
    """
    counts = _prefixes(frame).value_counts()
    sets = [
        (
            prefix,
            infos[prefix]["name"],
            _link(infos[prefix]["author"]["name"], infos[prefix]["author"]),
            _link(_license(infos[prefix]), infos[prefix]["license"]),
            count,
        )
        for prefix, count in sorted(counts.items())
    ]
    return _ATTRIBUTION.format(size=size, sets=lines(sets))


def _prefixes(frame: pd.DataFrame) -> pd.Series:
    return frame["sample_id"].str.partition(":")[0]


def _license(info: dict[str, Any]) -> str:
    return info["license"].get("spdx") or info["license"]["title"]


def _link(words: str, entry: dict[str, str]) -> str:
    return f"[{words}]({entry['url']})" if entry.get("url") else words


def lines(rows: Iterable[Iterable[object]]) -> str:
    """Formats the rows of a Markdown table."""
    return "\n".join(
        "| " + " | ".join(_cell(value) for value in row) + " |" for row in rows
    )


def _cell(value: object) -> str:
    if isinstance(value, numbers.Integral):
        return f"{value:,}"
    return str(value).replace("|", "\\|")
