"""Scores from rows of known figures."""

import pytest

from mixer_jax.reports import scores
from tests.reports.test_experiments import BUDGET, OTHER, OURS, WORSE, row


def test_folds_are_pooled_by_their_queries():
    some = [
        row("triplets", ranks, fold=fold, seed=seed)
        for fold, ranks in (("a", OURS), ("b", OTHER[:6]))
        for seed in (1, 2)
    ]
    found = scores.score(some)
    assert len(found.hits) == 16
    assert sorted(set(found.categories)) == list(range(8))
    assert found.parts == {"test/a": 0.75, "test/b": 0.5}
    assert found.measures["identical_at_1"] == pytest.approx(12 / 16)


def test_folds_count_with_the_same_number_of_seeds():
    some = [row("triplets", OURS, seed=seed) for seed in (1, 2, 3)]
    some += [row("triplets", OURS, fold="b", seed=1)]
    found = scores.score(some)
    assert len(found.rows) == 2
    assert found.by_seed == [0.9]
    assert scores.score([row("triplets", OURS, kind="trial")]) is None


def test_only_rows_like_the_last_are_current():
    last = [row("triplets", OURS), row("triplets", OURS, fold="b")]
    others = [
        row("triplets", WORSE, content="other", key="1"),
        row("triplets", WORSE, budget=BUDGET | {"steps": 9}, key="2"),
    ]
    more = row("triplets", OTHER, budget=BUDGET | {"seeds": 9}, key="3")
    assert scores.current([*others, more, *last]) == [more, *last]
    # Files of two machines, one after the other.
    assert scores.current([*last, *last]) == last


def test_damaged_rows_are_errors():
    with pytest.raises(ValueError, match="differ in length"):
        scores.score([row("a", OURS) | {"ranks": row("a", OURS[:4])["ranks"]}])
