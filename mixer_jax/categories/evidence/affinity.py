"""Affinity from clicks and content: how likely two samples are to match.

Clicks come first: a mixture of two beta-binomial distributions, fitted to the
log, gives the likelihood of a pair's clicks if the two belong together and if
they do not. Content is then calibrated on pairs with conclusive clicks: where
look-alikes are shown but not clicked, similarity gets a small weight; where
they get similar clicks, a large one. No cosine threshold is set by hand or
learned from true categories.
"""

import dataclasses

import numpy as np
from scipy import sparse
from scipy.special import betaln, digamma, expit, logit
from sklearn.linear_model import LogisticRegression

from mixer_jax.categories.evidence.graph import (
    ITEM_ITEM,
    KINDS,
    QUERY_ITEM,
    Pairs,
)

# Log-odds of belonging together for kinds of pairs without click evidence.
_UNTESTED = -4.0
# Two samples of the same role have similar clicks if `agree / heard` exceeds
# this; half of the pairs within a category reach twice this value.
_ALIKE = 0.25
# Share of matching same-role pairs with similar clicks; the others were shown
# too rarely or ranked too low.
_HEARD_ALIKE = 0.5
# Minimum click affinity for a pair to count in `heard`.
_SURE = 0.3
# Maximum number of knots ("corners") of a cosine's calibration curve. The curve
# need not be monotonic: variants of a drawing look more alike than two drawings
# of the same thing, and identical titles mean more than similar ones.
_CORNERS = 8
_A_CORNER = 25  # minimum number of pairs of the rarer class per corner
_SUREST = 0.995  # maximum probability from content alone


@dataclasses.dataclass(frozen=True)
class Rates:
    """Click rates of shown items.

    Attributes:
      right: (a, b) of the Beta distribution of the click rate for a query and
        an item that belong together.
      wrong: likewise if they do not belong together: such clicks are due to
        look-alikes, position bias and slips.
      share: share of the log's pairs that belong together.
    """

    right: tuple[float, float] = (2.0, 6.0)
    wrong: tuple[float, float] = (0.2, 10.0)
    share: float = 0.1


def fit_rates(
    exposures: np.ndarray, clicks: np.ndarray, *, min_pairs: int = 200
) -> Rates:
    """Fits `Rates` to `[P]` counts by expectation-maximization.

    The Beta distributions are updated by the fixed-point iteration of Minka,
    "Estimating a Dirichlet distribution" (2000), equation 55 for two outcomes.

    Args:
      exposures: `[P]` int, 1 or more.
      clicks: `[P]` int, at most the exposures.
      min_pairs: minimum number of clicked pairs; with fewer, defaults are used.
    """
    rates = Rates()
    if (np.asarray(clicks) > 0).sum() < min_pairs:
        return rates
    width = int(np.max(clicks)) + 1
    codes, times = np.unique(
        np.asarray(exposures, np.int64) * width + clicks, return_counts=True
    )
    shown, clicked = np.divmod(codes, width)
    shown, clicked = shown.astype(np.float64), clicked.astype(np.float64)
    for _ in range(100):
        right = expit(log_odds(shown, clicked, rates)) * times
        share = np.clip(right.sum() / times.sum(), 1e-4, 0.5)
        before = rates
        rates = Rates(
            _beta(shown, clicked, right, rates.right),
            _beta(shown, clicked, times - right, rates.wrong),
            float(share),
        )
        if np.allclose(
            (*before.right, *before.wrong, before.share),
            (*rates.right, *rates.wrong, rates.share),
            rtol=1e-3,
        ):
            break
    return rates


def _beta(
    shown: np.ndarray,
    clicked: np.ndarray,
    weight: np.ndarray,
    law: tuple[float, float],
) -> tuple[float, float]:
    """Returns a beta-binomial's (a, b) after one weighted fixed-point step."""
    a, b = law
    total = (weight * (digamma(shown + a + b) - digamma(a + b))).sum()
    total = max(total, 1e-9)
    up = (weight * (digamma(clicked + a) - digamma(a))).sum() / total
    down = (weight * (digamma(shown - clicked + b) - digamma(b))).sum() / total
    return (
        float(np.clip(a * up, 1e-2, 1e4)),
        float(np.clip(b * down, 1e-2, 1e4)),
    )


def log_odds(
    exposures: np.ndarray, clicks: np.ndarray, rates: Rates
) -> np.ndarray:
    """Returns log-odds `[P]` that pairs with these counts belong together."""

    def likelihood(law: tuple[float, float]) -> np.ndarray:
        a, b = law
        return betaln(clicks + a, exposures - clicks + b) - betaln(a, b)

    odds = likelihood(rates.right) - likelihood(rates.wrong)
    return odds + logit(rates.share)


def best_of_nodes(
    value: np.ndarray, first: np.ndarray, second: np.ndarray, nodes: int
) -> np.ndarray:
    """Returns the best value `[N]` of each node's pairs; -inf without pairs."""
    best = np.full(nodes, -np.inf)
    np.maximum.at(best, first, value)
    np.maximum.at(best, second, value)
    return best


def relative_to_best(
    value: np.ndarray, first: np.ndarray, second: np.ndarray, nodes: int
) -> np.ndarray:
    """Divides `value [P]` (>= 0) by the best value of either sample."""
    best = best_of_nodes(value, first, second, nodes)
    larger = np.maximum(best[first], best[second])
    return value / np.maximum(larger, 1e-12)


def click_affinity(pairs: Pairs, nodes: int, rates: Rates) -> np.ndarray:
    """Returns affinities `[P]` in [0, 1] from clicks alone; 0 if never shown.

    This is the probability that the pair belongs together, times its click rate
    relative to the best rate of either sample, as a sample with a better match
    belongs together with that match.
    """
    shown = pairs.exposures > 0
    sure = expit(log_odds(pairs.exposures, pairs.clicks, rates))
    return np.where(shown, sure * _rate(pairs, nodes, rates), 0.0)


def _rate(pairs: Pairs, nodes: int, rates: Rates) -> np.ndarray:
    """Returns rates relative to either sample's best; 1 if never shown."""
    a, b = rates.wrong
    rate = (pairs.clicks + a) / (pairs.exposures + a + b)
    shown = pairs.exposures > 0
    rate = np.where(shown, rate, 0.0)
    relative = relative_to_best(rate, pairs.first, pairs.second, nodes)
    return np.where(shown, relative, 1.0)


def same_role_evidence(
    pairs: Pairs, clicked: np.ndarray, nodes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Compares same-role samples by the samples shown with both.

    Args:
      pairs: P pairs of any kind.
      clicked: `[P]`, result of `click_affinity`.
      nodes: number of samples.

    Returns:
      `(agree, heard)`, `[P]` float: the inner product of the two samples' click
      affinities with the samples shown with both, and the larger of their
      squared norms, over affinities of at least `_SURE`. `agree / heard` is
      about 1 if both have the same clicks, and near 0 if one is clicked where
      the other is not. Both are zero for pairs of a query and an item.
    """
    shown = pairs.exposures > 0
    row = np.concatenate([pairs.first[shown], pairs.second[shown]])
    column = np.concatenate([pairs.second[shown], pairs.first[shown]])
    value = np.tile(clicked[shown], 2)
    shape = (nodes, nodes)
    liked = sparse.csr_array((value, (row, column)), shape=shape)
    seen = sparse.csr_array((np.ones_like(value), (row, column)), shape=shape)
    squared = liked.power(2)
    squared.data[liked.data < _SURE] = 0.0
    agree, heard = np.zeros((2, len(pairs.first)))
    within = np.flatnonzero(pairs.kind != QUERY_ITEM)
    for start in range(0, len(within), 65536):
        these = within[start : start + 65536]
        a, b = pairs.first[these], pairs.second[these]
        agree[these] = liked[a].multiply(liked[b]).sum(axis=1)
        heard[these] = np.maximum(
            squared[a].multiply(seen[b]).sum(axis=1),
            seen[a].multiply(squared[b]).sum(axis=1),
        )
    return agree, heard


def content_log_odds(
    pairs: Pairs, target: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Calibrates content on pairs with click evidence, separately by kind.

    For pairs of one role, labels from clicks have one-sided noise: some pairs
    that belong together get different clicks. The label's probability is then
    the true probability times a constant (Menon et al., "Learning from
    Corrupted Binary Labels via Class-Probability Estimation", 2015).

    Args:
      pairs: P pairs.
      target: `[P]` in [0, 1], label from clicks.
      weight: `[P]`, weight of the label; 0 excludes a pair.

    Returns:
      `(odds, base)`, `[P]`: the log-likelihood ratio of the content for pairs
      that belong together (0 where content is unknown or was never tested), and
      the prior log-odds of belonging together.
    """
    odds = np.zeros(len(target))
    base = np.full(len(target), _UNTESTED)
    for kind in KINDS:
        these = (pairs.kind == kind) & ~np.isnan(pairs.content).all(axis=1)
        content = pairs.content[these]
        if kind != ITEM_ITEM:
            content = content[:, :2]
        label, sure = target[these], weight[these]
        positive = (label * sure).sum()
        rarer = min(positive, sure.sum() - positive)
        # Learning needs about ten confident pairs of each class.
        if rarer < 10:
            continue
        used = sure > 0
        corners = int(np.clip(rarer / _A_CORNER, 2, _CORNERS))
        curves = _curves(content, used, corners)
        model = LogisticRegression(max_iter=500).fit(
            np.concatenate([curves[used], curves[used]]),
            np.repeat([1, 0], used.sum()),
            sample_weight=np.concatenate(
                [(label * sure)[used], ((1.0 - label) * sure)[used]]
            ),
        )
        # Same-role samples that belong together may get different clicks.
        limit = 1.0 if kind == QUERY_ITEM else _HEARD_ALIKE
        chance = expit(model.decision_function(curves)) / limit
        prior = positive / sure.sum() / limit
        base[these] = logit(np.minimum(prior, _SUREST))
        odds[these] = logit(np.minimum(chance, _SUREST)) - base[these]
    return odds, base


def _curves(content: np.ndarray, used: np.ndarray, count: int) -> np.ndarray:
    """Maps content `[P, C]` to weights of corners, `[P, C * count]` float32.

    A linear function of the weights is piecewise linear in each column. Corners
    are quantiles of the used pairs, fewer if some are equal; all weights are 0
    for NaN.
    """
    columns = []
    for value in content.T:
        known = ~np.isnan(value)
        if not (known & used).any():
            continue
        share = np.linspace(0.0, 1.0, count)
        corners = np.unique(np.quantile(value[known & used], share))
        for corner in np.eye(len(corners)):
            column = np.interp(value, corners, corner).astype(np.float32)
            columns.append(np.where(known, column, np.float32(0)))
    return np.stack(columns, axis=1)


@dataclasses.dataclass(frozen=True)
class Trust:
    """Weights of clicks and content.

    Attributes:
      unseen: odds that a pair never shown belongs together, relative to a
        shown pair; low, because engines show matching items more often than
        chance.
      votes: weight of the content of two samples of one role, in samples of
        the other role that surely match both.
      max_prior: maximum prior probability that two samples of one role match.
        Pairs with click evidence were found by the same queries, so they match
        more often than neighbors by content do; with the same prior for these
        neighbors, chains would join everything.
    """

    unseen: float = 0.1
    votes: float = 0.5
    max_prior: float = 0.3


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Evidence for P pairs.

    Attributes:
      rates: click rates of shown items.
      clicked: `[P]` in [0, 1], affinity of a query and an item from clicks.
      content: `[P]`, log-likelihood ratio of the content if the pair belongs
        together.
      affinity: `[P]` in [0, 1], from clicks and content, for any kind of pair.
    """

    rates: Rates
    clicked: np.ndarray
    content: np.ndarray
    affinity: np.ndarray


def weigh(pairs: Pairs, nodes: int, trust: Trust) -> Evidence:
    """Computes the evidence that each pair belongs together.

    Args:
      pairs: P pairs of any kind.
      nodes: number of samples.
      trust: see `Trust`.
    """
    shown = pairs.exposures > 0
    rates = fit_rates(pairs.exposures[shown], pairs.clicks[shown])
    clicked = click_affinity(pairs, nodes, rates)
    agree, heard = same_role_evidence(pairs, clicked, nodes)
    across = pairs.kind == QUERY_ITEM
    content, base = content_log_odds(
        pairs,
        np.where(across, clicked, agree > _ALIKE * heard),
        np.where(across, shown, np.minimum(heard, 1.0)),
    )
    odds = log_odds(pairs.exposures, pairs.clicks, rates) + content
    odds += np.where(shown, 0.0, np.log(trust.unseen))
    sure = np.where(across, expit(odds) * _rate(pairs, nodes, rates), 0.0)
    # Content may change which pair is best, so normalize again.
    sure *= relative_to_best(sure, pairs.first, pairs.second, nodes)
    alike = expit(content + np.minimum(base, logit(trust.max_prior)))
    ratio = np.minimum(agree / np.maximum(heard, 1e-9) / (2 * _ALIKE), 1.0)
    within = (heard * ratio + trust.votes * alike) / (heard + trust.votes)
    # One wrong same-role pair can join two correct clusters, so be stricter.
    within = within**2
    return Evidence(rates, clicked, content, np.where(across, sure, within))
