"""Click model: simulated searches, result pages and clicks.

For every query image, a search engine keeps a pool of items: right items,
look-alikes and strangers. Each search shows one page of items from the pool, in
a noisy order of relevance. The user looks at rank r with probability
1 / (1 + r)^bias and then clicks with a probability called the attraction. It is
drawn once for each query and item: high for right items, lower for look-alikes,
depending on their similarity, and lowest for strangers. Query frequency and
item exposure follow Zipf's law, and some items are shown rarely or never.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from mixer_jax.demo.click_rates import calibrate
from mixer_jax.runtime.arrays import normalize
from mixer_jax.search.neighbors import cosine_top_k


@dataclasses.dataclass(frozen=True)
class Simulation:
    """Settings of the simulated search engine and its users."""

    seed: int = 0
    searches: float = 60.0  # mean number of searches per query image
    query_skew: float = 1.0  # Zipf exponent of the query frequencies
    item_skew: float = 0.7  # Zipf exponent of the items' exposure as strangers
    never_shown: float = 0.03  # share of the items
    rarely_shown: float = 0.1  # share of the items
    rare: float = 0.05  # relative exposure of a rarely shown item
    page: int = 8  # results per search
    right: int = 16  # maximum number of right items in a pool
    lookalikes: int = 12  # maximum number of look-alikes in a pool
    strangers: int = 12  # maximum number of strangers in a pool
    recall: float = 0.8  # probability that a search finds a right item
    finds_lookalike: float = 0.5  # probability that a search finds a look-alike
    finds_stranger: float = 0.3  # chance that a search finds an unrelated item
    order_noise: float = 1.0  # Gumbel scale; relevance is 2, 1 or 0
    position_bias: float = 0.8  # exponent of 1 / (1 + rank)
    right_click: float = 0.5  # mean attraction of right items
    lookalike_click: float = 0.15  # mean attraction of the closest look-alikes
    stranger_click: float = 0.02  # mean attraction of strangers
    agreement: float = 4.0  # a + b of the Beta distribution of attractions
    clicks: int = 0  # approximate number of clicks; 0 to use `searches`
    wrong: float | None = None  # share of wrong clicks; None for no change


def simulate(
    query_category: Sequence[str],
    item_category: Sequence[str],
    settings: Simulation,
    query_features: np.ndarray | None = None,
    item_features: np.ndarray | None = None,
) -> pd.DataFrame:
    """Simulates clicks on items for queries, given all categories.

    Args:
      query_category: true category of each query, length Q.
      item_category: true category of each item, length I.
      settings: see `Simulation`.
      query_features: `[Q, C]` float; together with `item_features` determines
        the look-alikes. Without features they are drawn at random.
      item_features: `[I, C]` float.

    Returns:
      A frame with the int64 columns query and item (both row numbers),
      exposures and clicks, sorted by query and item.

    Raises:
      UserError: if the requested number of clicks cannot be reached.
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
    """Returns each query's look-alikes `[Q, L]` and similarities, 0 to 1."""
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
    finds = settings.recall, settings.finds_lookalike, settings.finds_stranger
    clicks = (
        settings.right_click,
        settings.lookalike_click,
        settings.stranger_click,
    )
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
        found = exposure[pool] * np.repeat(finds, kinds)
        mean = np.repeat(clicks, kinds)
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
        columns = np.full(len(pool), query), pool, shown, clicked
        rows.append(np.stack(columns, axis=1)[shown > 0])
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
    """Returns Zipf weights `[count]` with mean 1, in random order."""
    weights = np.arange(1, count + 1, dtype=np.float64) ** -skew
    return rng.permutation(weights) * count / weights.sum()
