"""Simulates a click log from known categories; no user made these clicks.

    python -m mixer_jax.demo.simulate --table=data/medium.csv --out=log

For every query image, a search engine keeps a pool of items: right ones,
look-alikes and strangers. Each search shows a page of the pool in a noisy order
of relevance. The user looks at rank r with probability 1 / (1 + r)^bias and
then clicks with a probability, the attraction, that is drawn once for each
pair: high for right items, lower for look-alikes, depending on their
similarity, and lowest for strangers. Query frequency and item exposure follow
Zipf's law, and some items are shown rarely or never. The output states that it
is simulated.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mixer_jax.categories.click_log import read_samples
from mixer_jax.categories.neighbors.exact_search import cosine_top_k
from mixer_jax.demo.appearance import appearance
from mixer_jax.demo.click_rates import calibrate
from mixer_jax.runtime import (
    command,
    files,
    numbers,
    parsing,
    results,
    terminal,
)
from mixer_jax.runtime.arrays import normalize
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.ownership import folder_lock, guards
from mixer_jax.runtime.tabular.tables import find, writer


@dataclasses.dataclass(frozen=True)
class Simulation:
    """Settings of the simulated search engine and its users."""

    seed: int = 0
    searches: float = 60.0  # mean number of searches per query image
    query_skew: float = 1.0  # Zipf exponent of the queries' frequency
    item_skew: float = 0.7  # Zipf exponent of the items' exposure as strangers
    never_shown: float = 0.03  # share of the items
    rarely_shown: float = 0.1  # share of the items
    rare: float = 0.05  # relative exposure of a rarely shown item
    page: int = 8  # results per search
    right: int = 16  # maximum number of right items in a pool
    lookalikes: int = 12  # maximum number in a pool
    strangers: int = 12  # maximum number in a pool
    recall: float = 0.8  # probability that a search finds a right item
    finds_lookalike: float = 0.5  # probability that it finds a look-alike
    finds_stranger: float = 0.3  # probability that it finds a stranger
    order_noise: float = 1.0  # Gumbel scale; relevance is 2, 1 or 0
    position_bias: float = 0.8  # exponent of 1 / (1 + rank)
    right_click: float = 0.5  # mean attraction of right items
    lookalike_click: float = 0.15  # mean attraction of the closest look-alikes
    stranger_click: float = 0.02  # mean attraction of strangers
    agreement: float = 4.0  # a + b of the Beta distribution of attractions
    clicks: int = 0  # approximate number of clicks; 0 to use `searches`
    wrong: float | None = None  # share of the clicks; None: as simulated


def simulate(
    query_category: Sequence[str],
    item_category: Sequence[str],
    settings: Simulation,
    query_features: np.ndarray | None = None,
    item_features: np.ndarray | None = None,
) -> pd.DataFrame:
    """Simulates the clicks between queries and items of known categories.

    Args:
      query_category: true category of each query, length Q.
      item_category: true category of each item, length I.
      settings: see `Simulation`.
      query_features: `[Q, C]` float; together with `item_features` determines
        the look-alikes. Without features they are drawn at random.
      item_features: `[I, C]` float.

    Returns:
      Columns query, item (rows), exposures, clicks (int64), in that order.

    Raises:
      UserError: if the wanted clicks cannot be reached.
    """
    query_category = np.asarray(query_category)
    item_category = np.asarray(item_category)
    look_alikes = _look_alikes(
        len(query_category),
        len(item_category),
        settings,
        query_features,
        item_features,
    )

    def draw(searches: float) -> pd.DataFrame:
        return _draw(
            query_category,
            item_category,
            *look_alikes,
            dataclasses.replace(settings, searches=searches),
        )

    def is_right(log: pd.DataFrame) -> np.ndarray:
        return query_category[log["query"]] == item_category[log["item"]]

    if not settings.clicks and settings.wrong is None:
        return draw(settings.searches)
    return calibrate(
        draw,
        is_right,
        settings.searches,
        settings.clicks,
        settings.wrong,
        settings.seed,
    )


def _look_alikes(
    num_queries: int,
    num_items: int,
    settings: Simulation,
    query_features: np.ndarray | None,
    item_features: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns each query's look-alikes `[Q, L]` and similarities in 0..1."""
    if query_features is None or item_features is None:
        rng = np.random.default_rng([settings.seed, 2])
        size = (num_queries, min(settings.lookalikes, num_items))
        likeness = np.sort(rng.random(size, np.float32), axis=1)[:, ::-1]
        return rng.integers(num_items, size=size), likeness
    # Right items are dropped later, so search for more than needed.
    alike, likeness = cosine_top_k(
        normalize(query_features),
        normalize(item_features),
        settings.lookalikes + 4,
    )
    return alike, np.clip(likeness / likeness.max(), 0.0, 1.0)


def _draw(
    query_category: np.ndarray,
    item_category: np.ndarray,
    alike: np.ndarray,
    likeness: np.ndarray,
    settings: Simulation,
) -> pd.DataFrame:
    """Simulates clicks with the mean number of searches in `settings`."""
    rng = np.random.default_rng(settings.seed)
    num_queries, num_items = len(query_category), len(item_category)
    searches = rng.poisson(
        settings.searches * _zipf(num_queries, settings.query_skew, rng)
    )
    popularity = _zipf(num_items, settings.item_skew, rng)
    popularity /= popularity.sum()
    exposure = np.ones(num_items)
    order = rng.permutation(num_items)
    never = round(settings.never_shown * num_items)
    rarely = round(settings.rarely_shown * num_items)
    exposure[order[:never]] = 0.0
    exposure[order[never : never + rarely]] = settings.rare

    # `Generator.choice` would sum all weights again for every query.
    cumulated = popularity.cumsum()
    cumulated /= cumulated[-1]
    by_category = pd.Series(np.arange(num_items)).groupby(item_category).indices
    rows = []
    for query in range(num_queries):
        right = by_category.get(query_category[query], np.empty(0, np.int64))
        if len(right) > settings.right:
            right = rng.choice(right, settings.right, replace=False)
        other = item_category[alike[query]] != query_category[query]
        similar = alike[query][other][: settings.lookalikes]
        closeness = likeness[query][other][: settings.lookalikes]
        strange = cumulated.searchsorted(
            rng.random(settings.strangers), side="right"
        )
        strange = np.setdiff1d(strange, similar)
        strange = strange[item_category[strange] != query_category[query]]
        kinds = (len(right), len(similar), len(strange))
        pool = np.concatenate([right, similar, strange])
        found = exposure[pool] * np.repeat(
            [
                settings.recall,
                settings.finds_lookalike,
                settings.finds_stranger,
            ],
            kinds,
        )
        mean = np.repeat(
            [
                settings.right_click,
                settings.lookalike_click,
                settings.stranger_click,
            ],
            kinds,
        )
        mean[kinds[0] : kinds[0] + kinds[1]] *= closeness
        # Random, so that some look-alikes are attractive and some right items
        # are not.
        attraction = rng.beta(
            settings.agreement * mean + 1e-6,
            settings.agreement * (1 - mean) + 1e-6,
        )
        shown, clicked = _search(
            searches[query], found, np.repeat([2.0, 1.0, 0.0], kinds),
            attraction, settings, rng,
        )  # fmt: skip
        seen = shown > 0
        rows.append(
            np.stack([np.full(len(pool), query), pool, shown, clicked], axis=1)[
                seen
            ]
        )
    table = np.concatenate(rows).astype(np.int64)
    frame = pd.DataFrame(
        table, columns=["query", "item", "exposures", "clicks"]
    )
    return frame.groupby(["query", "item"], as_index=False).sum()


def _search(
    searches: int,
    found: np.ndarray,
    relevance: np.ndarray,
    attraction: np.ndarray,
    settings: Simulation,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Shows `searches` pages of a pool `[P]`; returns exposures and clicks."""
    size = (searches, len(found))
    score = relevance[None] + rng.gumbel(scale=settings.order_noise, size=size)
    present = rng.random(size) < found[None]
    score = np.where(present, score, -np.inf)
    rank = np.argsort(np.argsort(-score, axis=1), axis=1)
    shown = present & (rank < settings.page)
    looks = (1.0 + rank) ** -settings.position_bias
    clicked = shown & (rng.random(size) < looks * attraction[None])
    return shown.sum(0), clicked.sum(0)


def _zipf(count: int, skew: float, rng: np.random.Generator) -> np.ndarray:
    """Returns Zipf weights `[count]` of mean 1, in random order."""
    weights = np.arange(1, count + 1, dtype=np.float64) ** -skew
    return rng.permutation(weights) * count / weights.sum()


def write_log(
    table: str | Path,
    out: str | Path,
    settings: Simulation,
    part: str | None = None,
) -> None:
    """Simulates a click log for a sample table and writes it to a folder.

    Args:
      table: a sample table with the true categories.
      out: the folder for queries.csv, items.csv, clicks.csv, simulation.json
        and SIMULATION.md.
      settings: see `Simulation`.
      part: the part of the splits to use; "" uses every row. None means
        "forward" if the splits have parts, so that no image belongs to both a
        query and an item.

    Raises:
      UserError: if the table cannot be read or has no such rows.
    """
    table, out = Path(table), Path(out)
    frame = read_samples(table)
    if part is None:
        part = "forward" if frame["split"].str.contains("/").any() else ""
    if part:
        frame = frame[frame["split"].str.endswith("/" + part)]
    frame = frame[frame["image"] != ""]
    queries = frame[frame["role"] == "query"]
    items = frame[frame["role"] == "document"]
    if queries.empty or items.empty:
        raise UserError(
            f"{table} has no {'queries' if queries.empty else 'documents'} "
            f'with an image in part "{part}"; choose another with --part.'
        )
    # Assume that users know the name of the category that they search for.
    names = items.groupby("category_id")["text"].first()
    wanted = names.reindex(queries["category_id"]).fillna("")
    folder = table.parent
    clicks = simulate(
        queries["category_id"].tolist(),
        items["category_id"].tolist(),
        settings,
        appearance([folder / i for i in queries["image"]], wanted.tolist()),
        appearance(
            [folder / i for i in items["image"]], items["text"].tolist()
        ),
    )
    writers = {}
    # Resolve links first: `..` of a linked folder leads elsewhere.
    step = os.path.relpath(os.path.realpath(folder), os.path.realpath(out))
    for rows, name, key, columns in (
        (queries, "queries", "query_id", ["image"]),
        (items, "items", "item_id", ["image", "text"]),
    ):
        written = rows[["sample_id", *columns]].set_axis(
            [key, *columns], axis=1
        )
        written = written.assign(
            image=[Path(step, image).as_posix() for image in rows["image"]]
        )
        writers[f"{name}.csv"] = writer(written, out / f"{name}.csv")
    drawn = pd.DataFrame(
        {
            "query_id": queries["sample_id"].to_numpy()[clicks["query"]],
            "item_id": items["sample_id"].to_numpy()[clicks["item"]],
            "exposures": clicks["exposures"],
            "clicks": clicks["clicks"],
        }
    )
    writers["clicks.csv"] = writer(drawn, out / "clicks.csv")
    note = {
        "simulation": True,
        "table": Path(step, table.name).as_posix(),
        "part": part,
        **dataclasses.asdict(settings),
        # Actual number of clicks, overriding the wanted number above.
        "exposures": int(clicks["exposures"].sum()),
        "clicks": int(clicks["clicks"].sum()),
    }
    text = json.dumps(note, indent=2) + "\n"
    writers["simulation.json"] = files.text_writer(text)
    writers["SIMULATION.md"] = files.text_writer(
        "# These clicks are simulated\n\nNo person made them: they were drawn "
        f"at random from the true categories of `{note['table']}` by "
        "`mixer_jax.demo.simulate`. simulation.json holds every setting "
        "and the seed.\n"
    )
    files.make_folder(out)
    with guards.locked(out):
        results.deliver_all(out, writers, "The click log")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = parsing.Parser(
        prog="python -m mixer_jax.demo.simulate",
        description="Simulates a click log from a table's true categories.",
    )
    add = parser.add_argument
    add("--table", required=True, help="the sample table")
    add("--out", required=True, help="the log's folder")
    add("--part", help="part of the splits; 'forward' if any")
    add("--seed", type=numbers.whole(0), default=0)
    add("--searches", type=numbers.number(0), default=Simulation.searches)
    add(
        "--clicks",
        type=numbers.whole(0),
        default=0,
        help="how many; then no --searches",
    )
    add("--wrong", type=numbers.share, help="share of wrong clicks")
    given = parser.parse_args(arguments)
    settings = Simulation(
        seed=given.seed,
        searches=given.searches,
        clicks=given.clicks,
        wrong=given.wrong,
    )
    return command.run(lambda: _simulate(given, settings))


def _simulate(given: argparse.Namespace, settings: Simulation) -> None:
    names = ["queries.csv", "items.csv", "clicks.csv"]
    names += ["simulation.json", "SIMULATION.md"]
    files.check_folder(given.out, "The click log", names)
    _check_simulated(Path(given.out))
    with folder_lock.hold(given.out, "--out"):
        write_log(given.table, given.out, settings, given.part)
    terminal.say(
        f"Wrote a simulated click log to {given.out} (seed {given.seed})."
    )


def _check_simulated(out: Path) -> None:
    """Raises a `UserError` if a folder has a table that was not simulated."""
    for name in ("queries", "items", "clicks"):
        there = find(out, name)
        if there is not None and not (out / "simulation.json").is_file():
            raise UserError(
                f"{there} is not of a simulated click log: there is no "
                f"{out / 'simulation.json'}. Name another folder by --out."
            )


if __name__ == "__main__":
    sys.exit(main())
