"""The recall of an index."""

import numpy as np
import pytest

from mixer_jax.service.stores.milvus import recall


def test_the_recall_is_the_share_of_the_nearest_that_are_found():
    rng = np.random.default_rng(0)
    unit = rng.standard_normal((100, 8)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    queries = unit[:2]
    order = -np.sort(-queries @ unit.T, axis=1)
    found = order[:, : recall.K].copy()
    parts = [unit[:30], unit[30:]]
    whole = recall.measure(queries, found, parts)
    assert whole == (1.0, 2, 100)
    assert str(whole) == "recall@10 1.000 (2 stored vectors among 100)"
    found[1, 5:] = order[1, 50:55]
    assert recall.measure(queries, found, parts).share == pytest.approx(0.75)
    found[1] = -np.inf
    assert recall.measure(queries, found, parts).share == pytest.approx(0.5)


def test_few_vectors_can_all_be_found():
    unit = np.eye(3, dtype=np.float32)
    found = np.full((1, recall.K), -np.inf, np.float32)
    found[0, :3] = [1, 0, 0]
    assert recall.measure(unit[:1], found, [unit]).share == 1
    found[0, 2] = -np.inf
    assert recall.measure(unit[:1], found, [unit]).share == pytest.approx(2 / 3)
    assert recall.measure(unit[:0], found[:0], []).share == 1


def test_samples_are_spread():
    few = [f"{i}" for i in range(5)]
    assert recall.sample(few) == few
    many = [f"{i}" for i in range(10_000)]
    chosen = recall.sample(many)
    assert chosen == recall.sample(many)
    assert len(set(chosen)) == 64
    assert 3000 < np.mean([int(one) for one in chosen]) < 7000
