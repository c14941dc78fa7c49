"""Writes CARD.md and ATTRIBUTION.md next to the furniture tables."""

import textwrap
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from mixer_jax.data.tables import table
from mixer_jax.demo.furniture import folds, package, shots
from mixer_jax.demo.furniture.catalog import Catalog
from mixer_jax.demo.furniture.settings import Settings
from mixer_jax.runtime import files

_CARD = """\
# The furniture: {products:,} products, {queries:,} queries

The tables fold0.csv ... fold{last}.csv share the pictures in `images/`, which
are {size} x {size} pixels. A document is a product's catalog picture and
English title; a query is another picture of the product. contact_sheet.png
shows some of them. Each product is a category; its group is the category of the
catalog, such as "Bedroom".

| kind of query | pictures | shows |
|---|---|---|
{kinds}

| fold | train | validation | test | queries of the test split |
|---|---|---|---|---|
{folds}

The columns train, validation and test count products.

## Source

{source}

It contains these catalogs of 3-D models for Sweet Home 3D; the licenses are in
ATTRIBUTION.md:

{catalogs}

## How the queries are made

- A hash of product and view is the seed of everything that is drawn at random,
  so the pictures depend neither on the order of the work nor on the number of
  processes.
- The product is turned by up to 75 degrees from its front (50 if it is thin),
  seen from 5 to 40 degrees above (35 to 70 if it is flat), and lit from a
  random direction by light of a random color. VTK renders it.
- The background is a studio, a room with wall and floor, or a surface, with
  procedural textures (paint, stone, wood, tiles, bricks, stripes). No
  photographs are used.
- In queries of the kind `hidden`, something in front covers 15% to 40% of the
  product. Those of the kind `mosaic` show a second, smaller product beside it,
  in the same room or in a picture of its own.
- Contrast, brightness, white balance, sharpness and noise vary.

## Splits

- Every product is tested in exactly one fold. A tenth of the titles is for
  validation in the folds in which they are not tested.
- Variants of a product (colors, sizes, numbers) share a title without these
  words, and a hash of this title decides on fold and validation.
- The second product of a mosaic is always in the same split, in every fold, so
  mosaics of the training split show no tested product.
- `val` and `test` have a part per kind of query, `test/plain` for example, each
  with its own copy of the documents. Each part is evaluated separately.
- The split `gallery` has the documents of all products that are not tested:
  with `evaluate.distractors = "gallery"`, the gallery `test+distractors` has
  all {products:,} products. For `evaluate.split = "val"`, use
  `evaluate.distractors = "val-gallery"`, the documents of the training split.

## Left out

{left_out}

## Limitations

- Pictures are rendered, not photographed.
- Titles are short and often not unique: {repeated:,} products share theirs with
  another one, so the text alone cannot identify them.
- Products of one author in one style, such as the doors of a kitchen, have
  different titles and may be in different folds.
- A catalog picture is a rendering of the same model, from the front.
- Some models lack textures that their catalog pictures show; these parts have
  a plain color.

## How to train on it

Set `data.table` to the path of a fold's table; or set `data.source` to
"furniture-fold0" (or another fold) and `data.table` to a path that does not
exist yet, to have the table built there.
"""
_ATTRIBUTION = """\
# Attribution

The pictures in `images/` and `cutouts/` are made from others' 3-D models and
catalog pictures, which were changed: models were rendered from other
directions, with other light, backgrounds and other objects, and the catalog
pictures were scaled.
{catalogs}"""
_CATALOG = """
## {name}

License: {license}

| product | title | author |
|---|---|---|
{products}

The catalog's license file:

{terms}
"""
_LISTED = 20  # maximum number of examples per reason
_SHOWS = {
    shots.PLAIN: "the product",
    shots.HIDDEN: "the product, partly hidden",
    shots.MOSAIC: "the product, with another one beside it",
}


def write(
    root: Path,
    samples: pd.DataFrame,
    catalogs: list[Catalog],
    settings: Settings,
    left_out: dict[str, list[str]],
) -> None:
    """Writes the data card and the attribution.

    Args:
      root: the folder of the tables.
      samples: the samples without splits; see `folds.split`.
      catalogs: the catalogs, with all products.
      settings: what was built.
      left_out: what was left out, by reason.
    """
    text = _card(samples, catalogs, settings, left_out)
    files.write_text(root / "CARD.md", text)
    files.write_text(root / "ATTRIBUTION.md", _attribution(samples, catalogs))


def _card(
    samples: pd.DataFrame,
    catalogs: list[Catalog],
    settings: Settings,
    left_out: dict[str, list[str]],
) -> str:
    documents = samples[samples["role"] == table.DOCUMENT]
    kinds = samples["part"].value_counts()
    spec = f"{package.NAME}={package.VERSION}"
    source = f"`apt-get download {spec}`, from Debian."
    if settings.package is not None:
        source = f"The package {settings.package}."
    return _CARD.format(
        products=len(documents),
        queries=len(samples) - len(documents),
        last=folds.NUMBER - 1,
        size=settings.size,
        kinds=_lines(
            (f"`{kind}`", kinds[kind], _SHOWS[kind])
            for kind in shots.KINDS
            if kind in kinds
        ),
        folds=_lines(_fold(samples, fold) for fold in range(folds.NUMBER)),
        source=source,
        catalogs="\n".join(
            f"- {one.name}: {len(one.products):,} products." for one in catalogs
        ),
        left_out=_left_out(left_out),
        repeated=int(documents["text"].duplicated(keep=False).sum()),
    )


def _fold(samples: pd.DataFrame, fold: int) -> tuple[object, ...]:
    frame = folds.split(samples, fold)
    split = frame["split"].str.partition("/")[0]
    products = frame.groupby(split)["category_id"].nunique()
    tests = frame[split == folds.TEST]
    queries = tests["split"][tests["role"] == table.QUERY].value_counts()
    names = (folds.TRAIN, folds.VALIDATION, folds.TEST)
    return (
        fold,
        *(products.get(name, 0) for name in names),
        ", ".join(f"{n:,} {part}" for part, n in sorted(queries.items())),
    )


def _left_out(left_out: dict[str, list[str]]) -> str:
    if not any(left_out.values()):
        return "Nothing."
    text = ""
    for reason, examples in left_out.items():
        if examples:
            text += f"{len(examples):,} x {reason}:\n\n"
            text += "".join(f"- {one}\n" for one in examples[:_LISTED])
            more = len(examples) - _LISTED
            text += f"- ... and {more:,} more\n\n" if more > 0 else "\n"
    return text.rstrip()


def _attribution(samples: pd.DataFrame, catalogs: list[Catalog]) -> str:
    used = set(samples["category_id"])
    return _ATTRIBUTION.format(
        catalogs="".join(
            _CATALOG.format(
                name=one.name,
                license=one.license,
                products=_lines(
                    (f"`{product.key}`", product.title, product.creator)
                    for product in one.products
                    if product.key in used
                ),
                terms=textwrap.indent(one.terms, "    "),
            )
            for one in catalogs
            if any(product.key in used for product in one.products)
        )
    )


def _lines(rows: Iterable[Iterable[object]]) -> str:
    """Formats the rows of a Markdown table."""
    return "\n".join(
        "| " + " | ".join(_cell(value) for value in row) + " |" for row in rows
    )


def _cell(value: object) -> str:
    # Counts may be NumPy's.
    if isinstance(value, str):
        return value.replace("|", "\\|")
    return f"{value:,}"
