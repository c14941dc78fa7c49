"""Clicks and content into one affinity: how surely two samples are the same.

Clicks come first: a mixture of two beta-binomial laws, fitted to the log, says
how likely a pair's clicks are if the two belong together and if they do not.
Content is then calibrated on what the clicks are sure of: where look-alikes
are shown and passed over, looking alike comes to mean little; where they are
clicked alike, it means much. So no threshold on cosines is set by hand, and
none is learned from a truth.
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

# Log-odds that two samples belong together whose sort clicks never tested.
_UNTESTED = -4.0
# Two samples of one role count as clicked alike from this `agree / heard` on;
# half of the samples of one category reach twice as much.
_ALIKE = 0.25
# ... and this share of those that could be clicked alike are: the others were
# shown too rarely, or too far down.
_HEARD_ALIKE = 0.5
# A click affinity from which a sample is heard about two of the other role.
_SURE = 0.3
# Corners of the curve that a cosine is read by. It need not rise: variants of a
# drawing look more alike than two drawings of one thing, and copies of a title
# mean more than any others that are near.
_CORNERS = 8
_A_CORNER = 25  # pairs of the rarer sort that one takes to learn
_SUREST = 0.995  # chance that content may give


@dataclasses.dataclass(frozen=True)
class Rates:
    """How often shown items are clicked.

    Attributes:
      right: (a, b) of the Beta law of the click rate where query and item
        belong together.
      wrong: (a, b) where they do not: look-alikes, position, slips.
      share: share of the log's pairs that belong together.
    """

    right: tuple[float, float] = (2.0, 6.0)
    wrong: tuple[float, float] = (0.2, 10.0)
    share: float = 0.1


def fit_rates(
    exposures: np.ndarray, clicks: np.ndarray, *, least: int = 200
) -> Rates:
    """Fits `Rates` to `[P]` counts by expectation-maximization.

    The Beta laws are moved by the fixed point of Minka, "Estimating a
    Dirichlet distribution" (2000), equation 55 for two outcomes.

    Args:
      exposures: `[P]` int, 1 or more.
      clicks: `[P]` int, at most the exposures.
      least: with fewer clicked pairs than this the defaults are kept.
    """
    rates = Rates()
    if (np.asarray(clicks) > 0).sum() < least:
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
    """One fixed-point step of a beta-binomial's (a, b) on weighted counts."""
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
    """Log-odds `[P]` that pairs with these counts belong together."""

    def likelihood(law: tuple[float, float]) -> np.ndarray:
        a, b = law
        return betaln(clicks + a, exposures - clicks + b) - betaln(a, b)

    odds = likelihood(rates.right) - likelihood(rates.wrong)
    return odds + logit(rates.share)


def beside_best(
    value: np.ndarray, first: np.ndarray, second: np.ndarray, nodes: int
) -> np.ndarray:
    """`value [P]` (>= 0) as a share of the best value of either sample."""
    best = np.zeros(nodes)
    np.maximum.at(best, first, value)
    np.maximum.at(best, second, value)
    most = np.maximum(best[first], best[second])
    return value / np.maximum(most, 1e-12)


def click_affinity(pairs: Pairs, nodes: int, rates: Rates) -> np.ndarray:
    """What clicks alone say, `[P]` in 0..1; 0 where nothing was shown.

    The probability that the pair belongs together, times its click rate beside
    the best rate of either sample: who has a better match is not this one's.
    """
    shown = pairs.exposures > 0
    sure = expit(log_odds(pairs.exposures, pairs.clicks, rates))
    return np.where(shown, sure * _rate(pairs, nodes, rates), 0.0)


def _rate(pairs: Pairs, nodes: int, rates: Rates) -> np.ndarray:
    """Click rate beside the best of either sample; 1 where nothing is known."""
    a, b = rates.wrong
    rate = (pairs.clicks + a) / (pairs.exposures + a + b)
    shown = pairs.exposures > 0
    rate = np.where(shown, rate, 0.0)
    beside = beside_best(rate, pairs.first, pairs.second, nodes)
    return np.where(shown, beside, 1.0)


def same_role_evidence(
    pairs: Pairs, clicked: np.ndarray, nodes: int
) -> tuple[np.ndarray, np.ndarray]:
    """What the samples that both were shown with say about two of one role.

    Args:
      pairs: P pairs of any kind.
      clicked: `[P]`, `click_affinity`.
      nodes: number of samples.

    Returns:
      `(agree, heard)`, `[P]` float: the inner product of their click
      affinities with the samples that both were shown with, and the larger of
      their squared norms over those surely liked: `agree / heard` is about 1
      if both are clicked alike and near 0 if one is clicked where the other is
      passed over. Zero for pairs of a query and an item.
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
    """Calibrates content on pairs that clicks speak about, kind by kind.

    What clicks say of two of one role is wrong on one side: some that belong
    together are not clicked alike. The chance of the label is then that of the
    truth times a constant (Menon et al., "Learning from Corrupted Binary Labels
    via Class-Probability Estimation", 2015).

    Args:
      pairs: P pairs.
      target: `[P]` in 0..1: what clicks say.
      weight: `[P]`: how loudly; 0 leaves a pair out.

    Returns:
      `(odds, base)`, `[P]`: the log of how many times likelier the content is
      among pairs that belong together (0 where content is unknown or was never
      tested), and the log-odds of belonging together before it is looked at.
    """
    odds = np.zeros(len(target))
    base = np.full(len(target), _UNTESTED)
    for kind in KINDS:
        these = (pairs.kind == kind) & ~np.isnan(pairs.content).all(axis=1)
        content = pairs.content[these]
        if kind != ITEM_ITEM:
            content = content[:, :2]
        said, loud = target[these], weight[these]
        positive = (said * loud).sum()
        rarer = min(positive, loud.sum() - positive)
        # Some ten sure pairs of either sort are the least to learn from.
        if rarer < 10:
            continue
        used = loud > 0
        corners = int(np.clip(rarer / _A_CORNER, 2, _CORNERS))
        curves = _curves(content, used, corners)
        model = LogisticRegression(max_iter=500).fit(
            np.concatenate([curves[used], curves[used]]),
            np.repeat([1, 0], used.sum()),
            sample_weight=np.concatenate(
                [(said * loud)[used], ((1.0 - said) * loud)[used]]
            ),
        )
        # Two of one role that belong together are not always clicked alike.
        most = 1.0 if kind == QUERY_ITEM else _HEARD_ALIKE
        chance = expit(model.decision_function(curves)) / most
        prior = positive / loud.sum() / most
        base[these] = logit(np.minimum(prior, _SUREST))
        odds[these] = logit(np.minimum(chance, _SUREST)) - base[these]
    return odds, base


def _curves(content: np.ndarray, used: np.ndarray, count: int) -> np.ndarray:
    """Content `[P, C]` as weights of corners, `[P, C * count]` float32.

    A linear function of them is a piecewise linear one of each column. Corners
    are quantiles of the pairs that are used, fewer where those are equal; all
    weights are 0 for NaN.
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
    """How clicks and content are weighed.

    Attributes:
      unseen: odds of a pair that was never shown, beside one that was: an
        engine shows right items more often than chance does.
      votes: between two samples of one role, content counts as this many
        samples of the other role that are sure of both.
      most: chance that two samples of one role are the same before their
        content is looked at, at most. Those that clicks speak about were found
        by the same queries, so more of them are the same than of neighbours by
        content; where a bare neighbour passes, chains join everything.
    """

    unseen: float = 0.1
    votes: float = 0.5
    most: float = 0.3


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What is known of P pairs.

    Attributes:
      rates: how often shown items are clicked.
      clicked: `[P]` in 0..1: what clicks alone say of a query and an item.
      content: `[P]`: log of how many times likelier the content is if the pair
        belongs together.
      affinity: `[P]` in 0..1: both, and what clicks say of two of one role.
    """

    rates: Rates
    clicked: np.ndarray
    content: np.ndarray
    affinity: np.ndarray


def weigh(pairs: Pairs, nodes: int, trust: Trust) -> Evidence:
    """Says how surely each pair belongs together.

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
    # Content has moved the ranking, so ask again who has a better match.
    sure *= beside_best(sure, pairs.first, pairs.second, nodes)
    alike = expit(content + np.minimum(base, logit(trust.most)))
    ratio = np.minimum(agree / np.maximum(heard, 1e-9) / (2 * _ALIKE), 1.0)
    within = (heard * ratio + trust.votes * alike) / (heard + trust.votes)
    # One pair of a role can join two sets that are right, so doubt it more.
    within = within**2
    return Evidence(rates, clicked, content, np.where(across, sure, within))
