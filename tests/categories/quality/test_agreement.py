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
        (0, 2, 5, 1),  # between two
        (1, 3, 8, 2),  # to nobody
        (2, 0, 9, 1),  # from nobody
        (3, 0, 9, 100),  # held out
        (0, 4, 9, 100),  # held out
        (1, 0, 9, 0),  # no click
    ]
)


def test_agreement_is_weighed_by_clicks():
    figures = agreement.agreement(CLICKS, QUERIES, ITEMS)
    assert figures["clicks"] == 10
    assert figures["together"] == pytest.approx(6 / 10)
    assert figures["known"] == pytest.approx(7 / 10)


def test_chance_is_what_shuffled_labels_give():
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 4
    rows = [(q, i, 1, 1) for q, i in rng.integers(400, size=(4000, 2))]
    own = [(i, i, 1, 1) for i in range(400)]
    figures = agreement.agreement(log(rows + own), labels, labels)
    assert figures["chance"] == pytest.approx(1 / 4, abs=0.02)
    assert figures["together"] > figures["chance"] + 0.05
    again = agreement.agreement(log(rows + own), labels, labels)
    assert again == figures


def test_of_no_clicks_nothing_agrees():
    figures = agreement.agreement(CLICKS[5:], QUERIES, ITEMS)
    assert figures == {"clicks": 0, "known": 0, "together": 0, "chance": 0}


def test_new_pairs_had_no_click():
    later = log([(0, 0, 1, 1), (1, 0, 1, 1), (2, 2, 1, 1)])
    new = agreement.new_pairs(later, CLICKS)
    assert new[["query", "item"]].to_numpy().tolist() == [[1, 0], [2, 2]]


def test_clicks_of_each_category():
    inside, every = agreement.of_categories(CLICKS, QUERIES, ITEMS, 2)
    assert inside.tolist() == [4, 2]
    # Of 0: its own, one that went to 1 and one from nobody.
    assert every.tolist() == [4 + 1 + 1, 2 + 1 + 2]


def test_exposures_before_and_after():
    items, grouped = agreement.exposures(CLICKS, ITEMS)
    assert items.tolist() == [36, 5, 5, 8]
    assert sorted(grouped.tolist()) == [8, 10, 36]


def test_lorenz():
    assert agreement.lorenz(np.full(7, 3), 5) == pytest.approx(
        [0, 0.25, 0.5, 0.75, 1]
    )
    one_has_all = agreement.lorenz(np.array([0, 9, 0, 0]), 5)
    assert one_has_all == pytest.approx([0, 0, 0, 0, 1])
    assert agreement.lorenz(np.zeros(3), 3).tolist() == [0, 0, 0]
