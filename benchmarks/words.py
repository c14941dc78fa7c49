"""Measures search by words, alone and together with a picture.

    python -m benchmarks.words --model=runs/quickstart/stage3/bundle \
        --table=runs/quickstart/data/medium.csv --json=words.json

The categories of the test split were not used for training. Each query is
searched in three ways: by its picture, through the query tower; by words, and
by both, through the document tower. The words are the first --words words of
the text of a document of its category. Documents of the training categories
are distractors, unless the gallery is `test`.
"""

import argparse
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import rich.box
import rich.table

import mixer_jax
from benchmarks import machine, printing
from mixer_jax.data.tables import table
from mixer_jax.retrieval import evaluate
from mixer_jax.retrieval.model import Model
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime.errors import UserError

Row = dict[str, Any]
_SHOWN = ("identical_at_1", "identical_at_5", "map", "mrr")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.words",
        description=__doc__.split("\n")[0],
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", required=True, help="bundle or workdir of a trained model")
    add("--table", required=True, help="sample table with a test split")
    add("--words", default="1,2,100", help="numbers of words, comma-separated")
    printing.add_json(parser)
    given = parser.parse_args(arguments)
    try:
        numbers = _numbers(given.words)
        rows = measure(given.model, pathlib.Path(given.table), numbers)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    printing.show(_table(rows), rows, 100, "")
    if given.json:
        printing.write(rows, given.json)
    return 0


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise UserError(
            f"--words={text} is not a list of whole numbers from 1, such as "
            "--words=1,2."
        )
    return numbers


def measure(
    place: str, path: pathlib.Path, numbers: Sequence[int]
) -> list[Row]:
    """Returns a row per gallery, number of words and way of searching.

    Args:
      place: the model's bundle or workdir.
      path: the sample table.
      numbers: maximum numbers of words per query.

    Raises:
      UserError: if the model or the table cannot be read, or the model has no
        text.
    """
    mesh = mesh_lib.make_mesh()
    model = mixer_jax.load(place, mesh=mesh)
    if model.ignores_text:
        raise UserError(f"{place} has no search by words: {model.ignores_text}")
    settings, data = model.config.evaluate, model.config.data
    frame, _ = evaluate.read(path, settings, data.max_skipped, data.max_pixels)
    by_picture = _by_picture(model, path.parent)
    ways = {("picture", 0): by_picture}
    for number in numbers:
        typed = _typed(frame, number)
        for way, shown in (("words", False), ("both", True)):
            embed = _by_words(model, path.parent, typed, shown, by_picture)
            ways[way, number] = embed
    described = machine.describe(list(mesh.devices.flat))
    rows = []
    for (way, number), embed in ways.items():
        for row in evaluate.evaluate(
            embed, frame, path.parent, settings, mesh, way, model.config.name
        ):
            if row["split"] == settings.split:  # the mean over the parts
                rows.append(row | {"words": number} | described)
    return rows


def _typed(frame: pd.DataFrame, number: int) -> pd.Series:
    """Returns the first words of each category's first text."""
    described = frame[(frame.role == table.DOCUMENT) & (frame.text != "")]
    texts = described.groupby("category_id").text.first()
    return texts.map(lambda text: " ".join(text.split()[:number]))


def _by_picture(model: Model, root: pathlib.Path) -> evaluate.Embed:
    """Returns a function that embeds each frame once."""
    known: dict[tuple[str, ...], np.ndarray] = {}

    def embed(frame: pd.DataFrame) -> np.ndarray:
        images, ids = _paths(frame, root), tuple(frame.sample_id)
        if ids not in known:
            if (frame.role == table.QUERY).all():
                known[ids] = model.embed_queries(images)
            else:
                texts = frame.text.tolist()
                known[ids] = model.embed_documents(images, texts)
        return known[ids]

    return embed


def _by_words(
    model: Model,
    root: pathlib.Path,
    typed: pd.Series,
    shown: bool,
    by_picture: evaluate.Embed,
) -> Callable[[pd.DataFrame], np.ndarray]:
    """Returns a function that embeds queries by the words of their category.

    Args:
      model: the model.
      root: the folder that the image paths are relative to.
      typed: the words, by category ID.
      shown: whether the words complement the query's picture.
      by_picture: embeds documents.
    """

    def embed(frame: pd.DataFrame) -> np.ndarray:
        if (frame.role != table.QUERY).any():
            return by_picture(frame)
        words = typed.reindex(frame.category_id).fillna("").tolist()
        if not all(words):
            raise UserError(
                "The documents of some test categories have no text."
            )
        return model.embed_documents(
            _paths(frame, root) if shown else None, words
        )

    return embed


def _paths(frame: pd.DataFrame, root: pathlib.Path) -> list:
    return [root / name if name else None for name in frame.image]


def _table(rows: Sequence[Row]) -> rich.table.Table:
    shown = rich.table.Table(box=rich.box.SIMPLE)
    for name in ("search by", "words", "gallery", *_SHOWN):
        shown.add_column(name, no_wrap=True)
    for row in rows:
        words = str(row["words"] or "")
        figures = (f"{row[name]:.3f}" for name in _SHOWN)
        shown.add_row(row["model"], words, row["gallery"], *figures)
    return shown


if __name__ == "__main__":
    sys.exit(main())
