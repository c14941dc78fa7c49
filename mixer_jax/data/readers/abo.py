"""Amazon Berkeley Objects: 147,702 listings with 398,212 catalog images.

Format, according to the set's README: `listings/metadata/listings_<i>.json.gz`
has one JSON object per line with item_id, domain_name, item_name (a list of
objects with language_tag and value), product_type (a list of objects with
value), main_image_id and other_image_id; `images/metadata/images.csv.gz` has
the columns image_id, height, width and path, relative to `images/small/` and
`images/original/`. Collins et al., arXiv 2110.06199.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mixer_jax.data.readers import files
from mixer_jax.data.readers.rows import Format, LeftOut, Row

_SIZES = ("small", "original")
ANY = "any"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `read` to a parser."""
    parser.add_argument(
        "--languages",
        default="en,any",
        help="languages of the names, best first, such as de_DE,en,any; a "
        "listing without a name in any of them has no text (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--size",
        choices=_SIZES,
        help="size of the images (default: small if present, else original)",
    )


def read(
    root: Path, options: argparse.Namespace, left_out: LeftOut
) -> Iterator[Row]:
    """Yields the documents and images of each listing, in file order.

    A listing's main image and name form a document. Its other images are
    further samples of the category. The category is the item, which may be
    listed in several countries; the group is the product type ("CHAIR").

    Raises:
      UserError: names the file, line and column of the error.
    """
    metadata, images = files.require(
        FORMAT,
        root,
        "listings/metadata",
        "images/metadata/images.csv.gz|images/metadata/images.csv",
    )
    listings = sorted(
        path
        for path in metadata.glob("listings_*.json*")
        if path.name.endswith((".json", ".json.gz"))
    )
    if not listings:
        raise files.missing(
            FORMAT, root, "listings/metadata/listings_*.json.gz"
        )
    size = options.size
    if size is None:
        sizes = [one for one in _SIZES if (root / "images" / one).is_dir()]
        size = (sizes or _SIZES)[0]
    paths = {
        cells["image_id"]: f"images/{size}/{cells['path']}"
        for _, cells in files.records(images, ("image_id", "path"))
    }
    languages = [one.strip() for one in options.languages.split(",")]
    for path in listings:
        for where, listing in files.json_lines(path):
            yield from _rows(listing, where, paths, languages, left_out)


def _rows(
    listing: dict[str, Any],
    where: str,
    paths: dict[str, str],
    languages: Sequence[str],
    left_out: LeftOut,
) -> Iterator[Row]:
    item = files.cell(listing, "item_id", where)
    domain = str(listing.get("domain_name") or "")
    group = _value(files.values(listing, "product_type", where))
    text = _name(files.values(listing, "item_name", where), languages)
    more = files.values(listing, "other_image_id", where)
    ids = [listing.get("main_image_id"), *more]
    ids = [str(one or "") for one in ids]
    unknown = sum(one not in paths for one in ids if one)
    left_out["with an image not listed in images.csv"] += unknown
    main, *others = (paths.get(one, "") for one in ids)
    if main or text:
        name = f"{item}@{domain}" if domain else item
        yield Row(name, main, text, item, group, "document")
    else:
        left_out["listings with neither a main image nor a name"] += 1
    for image_id, image in zip(ids[1:], others, strict=True):
        if image:
            yield Row(f"{item}/{image_id}", image, text, item, group)


def _name(names: Sequence[Any], languages: Sequence[str]) -> str:
    """Returns the name in the first of `languages` that has a name, or ""."""
    pairs = [
        (str(one.get("language_tag") or ""), str(one.get("value") or ""))
        for one in names
        if isinstance(one, dict)
    ]
    for language in languages:
        for tag, value in pairs:
            if language in (ANY, tag, tag.split("_")[0]) and value.strip():
                return value
    return ""


def _value(values: Sequence[Any]) -> str:
    for one in values:
        if isinstance(one, dict) and one.get("value"):
            return str(one["value"])
    return ""


FORMAT = Format(
    "Amazon Berkeley Objects",
    (
        "listings/metadata/listings_0.json.gz ...: one listing per line",
        "images/metadata/images.csv.gz: image_id,height,width,path",
        "images/small/ or images/original/: the images",
    ),
    read,
    add_options,
)
