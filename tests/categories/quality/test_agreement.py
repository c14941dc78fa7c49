import numpy as np
import pandas as pd
import pytest

from mixer_jax.categories.outcome import HELD_OUT, UNASSIGNED
from mixer_jax.categories.quality import agreement

QUERIES = np.array([0, 1, UNASSIGNED, HELD_OUT])
ITEMS = np.array([0, 1, 1, UNASSIGNED, HELD_OUT])


def log(rows):
    columns = ["query", "item", "exposures", "clicks"]
    return pd.DataFrame(rows, columns=columns)


CLICKS = log(
    [
        (0, 0, 9, 4),  # inside
        (1, 1, 5, 2),  # inside
        (0, 2, 5, 1),  # between categories
        (1, 3, 8, 2),  # to an unassigned item
        (2, 0, 9, 1),  # from an unassigned query
        (3, 0, 9, 100),  # held out
        (0, 4, 9, 100),  # held out
        (1, 0, 9, 0),  # no click
    ]
)


def test_agreement_is_weighted_by_clicks():
    figures = agreement.agreement(CLICKS, QUERIES, ITEMS)
    assert figures["clicks"] == 10
    assert figures["together"] == pytest.approx(6 / 10)
    assert figures["known"] == pytest.approx(7 / 10)


def test_chance_is_the_agreement_of_shuffled_labels():
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 4
    rows = [(q, i, 1, 1) for q, i in rng.integers(400, size=(4000, 2))]
    own = [(i, i, 1, 1) for i in range(400)]
    figures = agreement.agreement(log(rows + own), labels, labels)
    assert figures["chance"] == pytest.approx(1 / 4, abs=0.02)
    assert figures["together"] > figures["chance"] + 0.05
    again = agreement.agreement(log(rows + own), labels, labels)
    assert again == figures


def test_without_clicks_agreement_is_zero():
    figures = agreement.agreement(CLICKS[5:], QUERIES, ITEMS)
    assert figures == {"clicks": 0, "known": 0, "together": 0, "chance": 0}


def test_new_pairs_had_no_click():
    later = log([(0, 0, 1, 1), (1, 0, 1, 1), (2, 2, 1, 1)])
    new = agreement.new_pairs(later, CLICKS)
    assert new[["query", "item"]].to_numpy().tolist() == [[1, 0], [2, 2]]


def test_clicks_are_counted_per_category():
    inside, every = agreement.of_categories(CLICKS, QUERIES, ITEMS, 2)
    assert inside.tolist() == [4, 2]
    # Category 0: its own clicks, one to category 1, one from an unassigned
    # query.
    assert every.tolist() == [4 + 1 + 1, 2 + 1 + 2]


def test_exposures_before_and_after_grouping():
    items, grouped = agreement.exposures(CLICKS, ITEMS)
    assert items.tolist() == [36, 5, 5, 8]
    assert sorted(grouped.tolist()) == [8, 10, 36]


def test_lorenz_curve():
    assert agreement.lorenz(np.full(7, 3), 5) == pytest.approx(
        [0, 0.25, 0.5, 0.75, 1]
    )
    one_has_all = agreement.lorenz(np.array([0, 9, 0, 0]), 5)
    assert one_has_all == pytest.approx([0, 0, 0, 0, 1])
    assert agreement.lorenz(np.zeros(3), 3).tolist() == [0, 0, 0]
