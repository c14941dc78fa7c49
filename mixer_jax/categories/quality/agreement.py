"""Agreement of clicks with categories, and exposure per category.

The clicks from which categories were found agree with them to some degree by
construction. Later clicks do not, so they allow an evaluation without true
categories.
"""

import numpy as np
import pandas as pd

from mixer_jax.categories.outcome import HELD_OUT


def agreement(
    clicks: pd.DataFrame,
    query_labels: np.ndarray,
    item_labels: np.ndarray,
    *,
    shuffles: int = 10,
    seed: int = 0,
) -> dict[str, float]:
    """Measures how many clicks lead from a query to an item of its category.

    Args:
      clicks: columns query, item (rows), clicks.
      query_labels: `[Q]` int, negative for no category; clicks of `HELD_OUT`
        queries are not counted.
      item_labels: `[I]` int, likewise.
      shuffles: number of shuffles for the chance level.
      seed: seed of the shuffles.

    Returns:
      clicks, the number of clicks; known, the share of clicks whose query and
      item both have a category; together, the share whose query and item have
      the same category; chance, the mean of `together` with the labels shuffled
      among the items that are not held out.
    """
    clicks = clicks[clicks["clicks"] > 0]
    query, item = clicks["query"].to_numpy(), clicks["item"].to_numpy()
    seen = query_labels[query] != HELD_OUT
    seen &= item_labels[item] != HELD_OUT
    query, item = query[seen], item[seen]
    weight = clicks["clicks"].to_numpy()[seen]
    total = int(weight.sum())
    if not total:
        return {"clicks": 0, "known": 0.0, "together": 0.0, "chance": 0.0}
    label = query_labels[query]

    def together(labels: np.ndarray) -> float:
        same = (label >= 0) & (label == labels[item])
        return float(weight[same].sum() / total)

    known = (label >= 0) & (item_labels[item] >= 0)
    rng = np.random.default_rng(seed)
    counted = np.flatnonzero(item_labels != HELD_OUT)
    chance = []
    for _ in range(shuffles):
        shuffled = item_labels.copy()
        shuffled[counted] = rng.permutation(item_labels[counted])
        chance.append(together(shuffled))
    return {
        "clicks": total,
        "known": float(weight[known].sum() / total),
        "together": together(item_labels),
        "chance": float(np.mean(chance)),
    }


def new_pairs(later: pd.DataFrame, earlier: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of `later` whose pairs had no click in `earlier`."""
    columns = ["query", "item"]
    before = pd.MultiIndex.from_frame(earlier[earlier["clicks"] > 0][columns])
    now = pd.MultiIndex.from_frame(later[columns])
    return later[~now.isin(before)]


def of_categories(
    clicks: pd.DataFrame,
    query_labels: np.ndarray,
    item_labels: np.ndarray,
    count: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Counts the clicks per category, `(inside [C], all [C])`.

    `inside` counts the clicks of the category's queries on its items. `all`
    counts the clicks of its queries and the clicks on its items, including
    clicks that involve samples without a category.
    """
    query = query_labels[clicks["query"].to_numpy()]
    item = item_labels[clicks["item"].to_numpy()]
    weight = clicks["clicks"].to_numpy()
    seen = (query != HELD_OUT) & (item != HELD_OUT)
    query, item, weight = query[seen], item[seen], weight[seen]

    def total(labels: np.ndarray, of: np.ndarray) -> np.ndarray:
        of = of & (labels >= 0)
        return np.bincount(labels[of], weight[of], minlength=count)

    same = query == item
    inside = total(query, same)
    return inside, inside + total(query, ~same) + total(item, ~same)


def exposures(
    clicks: pd.DataFrame, item_labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Counts how often items were shown, before and after grouping items.

    Args:
      clicks: columns item (rows), exposures.
      item_labels: `[I]` int; an item without a category counts by itself;
        `HELD_OUT` items are left out.

    Returns:
      Exposures per item, and per category (or item without a category).
    """
    shown = np.bincount(
        clicks["item"].to_numpy(),
        clicks["exposures"].to_numpy(),
        minlength=len(item_labels),
    )
    counted = item_labels != HELD_OUT
    shown, labels = shown[counted], item_labels[counted]
    alone = labels < 0
    grouped = np.bincount(labels[~alone], shown[~alone])
    # A category with only queries has no items to show.
    present = np.bincount(labels[~alone], minlength=len(grouped)) > 0
    return shown, np.concatenate([grouped[present], shown[alone]])


def lorenz(counts: np.ndarray, points: int = 101) -> np.ndarray:
    """Returns the Lorenz curve: the share held by the smallest counts.

    Args:
      counts: `[N]`.
      points: number of points, evenly spaced from no counts to all counts.

    Returns:
      f64 `[points]`, from 0 to 1; all 0 if the counts sum to 0.
    """
    ordered = np.concatenate([[0.0], np.sort(counts).cumsum()])
    if not ordered[-1]:
        return np.zeros(points)
    place = np.linspace(0, len(counts), points)
    return np.interp(place, np.arange(len(ordered)), ordered) / ordered[-1]
