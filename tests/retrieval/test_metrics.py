"""Metrics against hand-computed examples and a naive implementation."""

import numpy as np
import pytest

from mixer_jax.retrieval import metrics

ALL = np.ones(2, bool)


def test_identical_at_matches_a_hand_computed_example():
    found = np.array([[3, 1, 2], [0, 0, 5]])
    labels = np.array([2, 0])
    assert metrics.identical_at(found, labels, ALL, 1).value == 0.5
    assert metrics.identical_at(found, labels, ALL, 2).value == 0.5
    assert metrics.identical_at(found, labels, ALL, 3).value == 1.0


def test_relevance_at_matches_a_hand_computed_example():
    found = np.array([[7, 7, 8, -1], [9, -2, -2, -2]])
    groups = np.array([7, 9])
    # Two of four documents are relevant, then one of one.
    assert metrics.relevance_at(found, groups, ALL, 4).value == 0.75
    # Queries without a group are skipped and match no ungrouped document.
    groups = np.array([-1, 8])
    assert metrics.relevance_at(found, groups, ALL, 4) == (0.0, 1)


def test_average_precision_matches_a_hand_computed_example():
    # Relevant at 1, 3 and 6: (1/1 + 2/3 + 3/6) / 3; cut at R = 3: 5/9.
    positions = np.array([[6, 0, 1, 3], [2, 0, 0, 0]])
    first = np.array([True, False])
    full = metrics.mean_average_precision(positions, first)
    assert full.value == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    cut = metrics.mean_average_precision_at_r(positions, first)
    assert cut.value == pytest.approx((1 + 2 / 3) / 3)
    assert metrics.mean_average_precision(positions, ~first).value == 0.5
    assert metrics.mean_average_precision_at_r(positions, ~first).value == 0.0


def test_reciprocal_rank_matches_a_hand_computed_example():
    positions = np.array([[6, 0, 4, 5], [1, 0, 0, 0]])
    assert metrics.mean_reciprocal_rank(positions, ALL).value == 0.625


def test_queries_without_relevant_documents_are_not_counted():
    positions = np.array([[0, 0], [2, 0]])
    for measure in (
        metrics.mean_average_precision,
        metrics.mean_average_precision_at_r,
        metrics.mean_reciprocal_rank,
    ):
        assert measure(positions, ALL).count == 1
    nothing = metrics.mean_reciprocal_rank(positions, np.zeros(2, bool))
    assert nothing.value is None


def test_masked_queries_are_ignored():
    found = np.array([[0, 1], [1, 0]])
    labels = np.array([0, 0])
    mask = np.array([True, False])
    assert metrics.identical_at(found, labels, mask, 1) == (1.0, 1)


def test_too_few_columns_raise_an_error():
    with pytest.raises(ValueError, match=r"top 3 .* \(1, 2\)"):
        metrics.identical_at(np.zeros((1, 2)), np.zeros(1), ALL[:1], 3)


def naive(ranked, label):
    """Returns all metrics of a query from its ranked list of categories."""
    hits = [category == label for category in ranked]
    relevant = sum(hits)
    precisions = [
        sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(hits) if hit
    ]
    cut = [
        sum(hits[: i + 1]) / (i + 1)
        for i, hit in enumerate(hits[:relevant])
        if hit
    ]
    return {
        "map": sum(precisions) / relevant,
        "map_at_r": sum(cut) / relevant,
        "mrr": 1 / (hits.index(True) + 1),
        "identical_at_5": float(any(hits[:5])),
    }


def test_measures_match_a_naive_implementation():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 40)
    ranked = rng.integers(0, 6, (40, 60))
    positions = np.zeros((40, 60), int)
    for row, label in enumerate(labels):
        places = np.flatnonzero(ranked[row] == label) + 1
        positions[row, : len(places)] = rng.permutation(places)
    mask = rng.random(40) < 0.8
    expected = [
        naive(list(ranked[row]), labels[row]) for row in np.flatnonzero(mask)
    ]
    found = {
        "map": metrics.mean_average_precision(positions, mask),
        "map_at_r": metrics.mean_average_precision_at_r(positions, mask),
        "mrr": metrics.mean_reciprocal_rank(positions, mask),
        "identical_at_5": metrics.identical_at(ranked, labels, mask, 5),
    }
    for name, mean in found.items():
        values = [row[name] for row in expected]
        assert mean.value == pytest.approx(np.mean(values)), name


def test_blocks_add_up_to_the_whole():
    rng = np.random.default_rng(1)
    positions = rng.integers(0, 50, (20, 4))
    mask = np.ones(20, bool)
    whole = metrics.mean_average_precision(positions, mask)
    parts = metrics.mean_average_precision(positions[:7], mask[:7]).merge(
        metrics.mean_average_precision(positions[7:], mask[7:])
    )
    assert parts.count == whole.count
    assert parts.value == pytest.approx(whole.value)
