"""Simulates shoppers who search a running service and click on its results.

    python -m mixer_jax.demo.shoppers --url=http://127.0.0.1:8000 \
        --table=runs/quickstart/data/medium.csv [--searches=300] [--seed=0]

A shopper sends a query picture from the table, looks at the result of rank
r with probability 1 / (1 + r)^bias, and clicks more often on items of the
query's true category. No real person is involved.
"""

import argparse
import dataclasses
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixer_jax.categories.click_log import read_samples
from mixer_jax.runtime import command, numbers, parsing, terminal
from mixer_jax.runtime.errors import UserError

# Sends a body to a path of the service; returns the parsed answer.
Post = Callable[[str, bytes], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Shoppers:
    """Settings of the simulated shoppers.

    Attributes:
      searches: the number of searches.
      seed: the seed of all random numbers.
      page: the number of results per search.
      bias: how quickly attention decreases with the rank.
      right: the probability of a click on a seen item of the true category.
      wrong: likewise, for other items.
      part: the part of the table's splits to take queries from.
    """

    searches: int = 300
    seed: int = 0
    page: int = 12
    bias: float = 0.8
    right: float = 0.6
    wrong: float = 0.02
    part: str = "forward"


def visit(post: Post, table: str | Path, settings: Shoppers) -> tuple[int, int]:
    """Searches and clicks.

    Args:
      post: sends a request to the service.
      table: a sample table with the true categories.
      settings: see `Shoppers`.

    Returns:
      The numbers of searches and of clicks.

    Raises:
      UserError: if the table has no queries.
    """
    frame = read_samples(table)
    category = frame.set_index("sample_id")["category_id"].to_dict()
    is_query = (frame["role"] == "query") & (frame["image"] != "")
    is_part = frame["split"].str.endswith(f"/{settings.part}")
    queries = frame[is_query & (is_part if is_part.any() else True)]
    if queries.empty:
        raise UserError(f"{table} has no queries with a picture.")
    rng, clicks = np.random.default_rng(settings.seed), 0
    for row in rng.integers(len(queries), size=settings.searches):
        query = queries.iloc[row]
        picture = (Path(table).parent / query["image"]).read_bytes()
        answer = post(f"v1/search?k={settings.page}", picture)
        shown = [hit["id"] for hit in answer["results"]]
        right = [category.get(item) == query["category_id"] for item in shown]
        chosen = _choose(np.array(right, bool), settings, rng)
        events = [
            {"search_id": answer["search_id"], "item_id": shown[i]}
            | {"position": int(i)}
            for i in chosen
        ]
        if events:
            post("v1/events", json.dumps({"events": events}).encode())
        clicks += len(events)
    return settings.searches, clicks


def _choose(
    right: np.ndarray, settings: Shoppers, rng: np.random.Generator
) -> np.ndarray:
    """Returns the ranks of the clicked items, int `[n]`."""
    seen = (1.0 + np.arange(len(right))) ** -settings.bias
    rate = np.where(right, settings.right, settings.wrong)
    return np.flatnonzero(rng.random(len(right)) < seen * rate)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = parsing.for_command("mixer_jax.demo.shoppers", __doc__)
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:8000", help="the running service")
    add("--table", required=True, help="sample table with true categories")
    default = Shoppers()
    whole = numbers.whole(1)
    add("--searches", type=whole, default=default.searches, help="their number")
    add("--seed", type=numbers.whole(0), default=default.seed)
    given = parser.parse_args(arguments)
    return command.run(lambda: _visit(given))


def _visit(given: argparse.Namespace) -> None:
    settings = Shoppers(searches=given.searches, seed=given.seed)
    count, clicks = visit(_poster(given.url), given.table, settings)
    terminal.say(f"{count:,} simulated searches, {clicks:,} simulated clicks")


def _poster(url: str) -> Post:
    def post(path: str, body: bytes) -> dict[str, Any]:
        try:
            request = urllib.request.Request(f"{url.rstrip('/')}/{path}", body)
            with urllib.request.urlopen(request) as answer:
                return json.load(answer)
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            if isinstance(error, urllib.error.HTTPError):
                reason = error.read().decode(errors="replace")
            raise UserError(f"{url}/{path} failed: {reason}.") from error

    return post


if __name__ == "__main__":
    sys.exit(main())
