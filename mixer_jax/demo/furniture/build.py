"""Builds the furniture tables: pictures first, then the table of each fold.

The pictures are made in three passes: catalog pictures, cutouts (renderings
without background), and queries composed from cutouts. Each pass keeps the
files of an earlier, interrupted build. The name of a file contains a hash of
all that it is made from.
"""

import collections
import zlib
from pathlib import Path
from typing import Any

import pandas as pd

from mixer_jax.data.images import decoding
from mixer_jax.data.tables import table
from mixer_jax.data.tables.holdout import digest
from mixer_jax.demo.furniture import (
    card,
    catalog,
    contact_sheet,
    cutouts,
    folds,
    package,
    pictures,
    shots,
)
from mixer_jax.demo.furniture.catalog import Product
from mixer_jax.demo.furniture.models import rendering
from mixer_jax.demo.furniture.settings import Settings, check
from mixer_jax.runtime import progress
from mixer_jax.runtime.errors import UserError

_COLUMNS = (
    *("sample_id", "role", "image", "text", "category_id", "group"),
    *("part", "fold", "validation"),
)


def build_table(path: Path, fold: int) -> pd.DataFrame:
    """Builds the table of one fold, with the default settings.

    Args:
      path: path of the table; its pictures are written next to it.
      fold: the number of the fold.

    Returns:
      The table.

    Raises:
      UserError: see `build_samples`.
    """
    samples = build_samples(Path(path).parent, Settings())
    frame = folds.split(samples, fold)
    table.write_table(frame, path)
    return frame


def build_tables(root: Path, settings: Settings) -> dict[str, pd.DataFrame]:
    """Builds the tables of all folds, which share their pictures.

    Args:
      root: the folder of the tables.
      settings: what to build.

    Returns:
      The tables by file name.

    Raises:
      UserError: see `build_samples`.
    """
    samples = build_samples(root, settings)
    frames = {
        name(fold): folds.split(samples, fold) for fold in range(folds.NUMBER)
    }
    for file, frame in frames.items():
        table.write_table(frame, root / file)
    return frames


def name(fold: int) -> str:
    """Returns the file name of a fold's table."""
    return f"fold{fold}.csv"


def build_samples(root: Path, settings: Settings) -> pd.DataFrame:
    """Makes all pictures, the data card and the contact sheet.

    Args:
      root: the folder for the files.
      settings: what to build.

    Returns:
      The samples without splits; see `folds.split`.

    Raises:
      UserError: if a setting is out of range; the package cannot be fetched,
        unpacked or read; or the renderer is not installed.
    """
    check(settings)
    rendering.check()
    catalogs = package.read(settings.package, root / "packages")
    products = _chosen(catalogs, settings.limit)
    left_out: dict[str, list[str]] = collections.defaultdict(list)
    documents = _write_documents(products, root, settings.size, left_out)
    products = [product for product in products if product.key in documents]
    found = _render(products, root, settings, left_out)
    queries = _compose(products, found, root, settings.size, left_out)
    rows = []
    for product in products:
        if product.key in queries:
            rows.append(_document(product, documents[product.key]))
            rows += queries[product.key]
    if not rows:
        raise UserError("No product of the package could be rendered.")
    samples = pd.DataFrame(rows, columns=_COLUMNS)
    card.write(root, samples, catalogs, settings, dict(left_out))
    contact_sheet.write(root, samples)
    return samples


def _chosen(
    catalogs: list[catalog.Catalog], limit: int | None
) -> list[Product]:
    """Returns the products, or some of them chosen by hash, sorted by key."""
    products = [product for one in catalogs for product in one.products]
    products.sort(key=lambda product: digest("limit", product.key))
    return sorted(products[:limit], key=lambda product: product.key)


def _write_documents(
    products: list[Product],
    root: Path,
    size: int,
    left_out: dict[str, list[str]],
) -> dict[str, str]:
    """Writes the catalog pictures; returns their paths by product."""
    written = {}
    for product in progress.track(products, "Copying catalog pictures"):
        content = catalog.picture(product)
        key = _hash(str(zlib.crc32(content)), str(size))
        path = f"images/{product.key}-{key}.png"
        try:
            pictures.write_document(content, root / path, size)
        except decoding.UnreadableImageError as error:
            left_out["unreadable catalog picture"].append(
                f"{product.key}: {error}"
            )
            continue
        written[product.key] = path
    return written


def _render(
    products: list[Product],
    root: Path,
    settings: Settings,
    left_out: dict[str, list[str]],
) -> dict[str, dict[int, Path]]:
    """Renders the cutouts; returns their paths by product and view."""
    tasks = _tasks(products, root, settings)
    results = progress.track(
        cutouts.render(tasks), "Rendering the products", len(tasks)
    )
    found = {}
    for task, result in zip(tasks, results, strict=True):
        key = task.product.key
        if result.fault:
            left_out["model that cannot be rendered"].append(
                f"{key}: {result.fault}"
            )
        left_out["blank view"] += [f"{key}, view {k}" for k in result.blank]
        if result.views:
            found[key] = {k: task.views[k] for k in result.views}
    return found


def _tasks(
    products: list[Product], root: Path, settings: Settings
) -> list[cutouts.Task]:
    sums = {
        path: catalog.checksums(path)
        for path in {product.archive for product in products}
    }
    tasks = []
    for product in products:
        content = cutouts.checksum(product, sums[product.archive])
        paths = {}
        for number in range(settings.views):
            shot = shots.draw(product, number)
            made = (content, product.rotation, product.size, shot)
            key = _hash(str(cutouts.VERSION), repr(made), str(settings.size))
            paths[number] = root / f"cutouts/{product.key}-{number}-{key}.png"
        tasks.append(cutouts.Task(product, paths, settings.size))
    return tasks


def _compose(
    products: list[Product],
    found: dict[str, dict[int, Path]],
    root: Path,
    size: int,
    left_out: dict[str, list[str]],
) -> dict[str, list[tuple[Any, ...]]]:
    """Composes the queries; returns their rows of `_COLUMNS` by product."""
    beside = _candidates(products, found)
    queries, rows = [], collections.defaultdict(list)
    for product in products:
        for number, cutout in found.get(product.key, {}).items():
            query = _query(product, number, cutout, beside[product.key], size)
            if query is None:
                left_out["mosaic without another product"].append(
                    f"{product.key}, view {number}"
                )
                continue
            rows[product.key].append(_row(product, query))
            queries.append(query._replace(path=root / query.path))
    made = pictures.compose(queries)
    for _ in progress.track(made, "Composing the queries", len(queries)):
        pass
    return rows


def _candidates(
    products: list[Product], found: dict[str, dict[int, Path]]
) -> dict[str, dict[str, Path]]:
    """Returns what the mosaics of each product may show beside it.

    These are cutouts of products of the same cell, but not variants, which
    would be a second correct answer.
    """
    first = {key: next(iter(views.values())) for key, views in found.items()}
    cells = collections.defaultdict(list)
    for product in products:
        if product.key in first:
            stem = folds.stem(product.title)
            cells[folds.cell(stem)].append((stem, product.key))
    return {
        key: {k: first[k] for other, k in members if other != stem}
        for members in cells.values()
        for stem, key in members
    }


def _query(
    product: Product,
    number: int,
    cutout: Path,
    beside: dict[str, Path],
    size: int,
) -> pictures.Query | None:
    """Returns a query to compose; None for a mosaic of a single product."""
    other = None
    if shots.kind(number) == shots.MOSAIC:
        chosen = pictures.neighbor(product.key, number, list(beside))
        if chosen is None:
            return None
        other = beside[chosen]
    made = [cutout.name, other.name if other else "", shots.kind(number)]
    key = _hash(str(pictures.VERSION), *made, str(size))
    path = Path(f"images/{product.key}-{number}-{key}.jpg")
    return pictures.Query(product.key, number, cutout, other, path, size)


def _document(product: Product, image: str) -> tuple[Any, ...]:
    key, cell = product.key, folds.cell(folds.stem(product.title))
    row = (key, table.DOCUMENT, image, product.title, key, product.group)
    return (*row, "", *cell)


def _row(product: Product, query: pictures.Query) -> tuple[Any, ...]:
    key, cell = product.key, folds.cell(folds.stem(product.title))
    image = query.path.as_posix()
    row = (f"{key}/{query.number}", table.QUERY, image, "", key, product.group)
    return (*row, shots.kind(query.number), *cell)


def _hash(*words: str) -> str:
    return f"{digest(*words):040x}"[:8]
