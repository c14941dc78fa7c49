"""Searches of random vectors, compared with NumPy."""

import numpy as np
import pytest

from mixer_jax.runtime.arrays import normalize
from mixer_jax.service.stores.interface import Item, Vector
from tests.service.stores.items import make

ITEMS, DIM = 700, 8


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A store, its vectors, and the item and brand of each vector."""
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 4, ITEMS)
    counts[0] = 1200  # more vectors than one search returns
    owners = np.repeat(np.arange(ITEMS), counts)
    rows = normalize(rng.standard_normal((len(owners), DIM)))
    # The vectors of item 0 are close to the first axis.
    rows[owners == 0] = normalize(0.1 * rows[owners == 0] + np.eye(DIM)[0])
    brands = rng.integers(0, 5, ITEMS)
    items = [
        Item(
            str(i),
            tuple(Vector(r.tobytes()[:16], r) for r in rows[owners == i]),
            fields={"brand": str(brands[i]), "price": i},
        )
        for i in range(ITEMS)
    ]
    with make(tmp_path_factory.mktemp("index"), *items, dim=DIM) as store:
        yield store, rows, owners, brands


def best(scores, keys):
    """Returns the keys ordered by their best scores."""
    order = np.argsort(-scores, kind="stable")
    _, first = np.unique(keys[order], return_index=True)
    return keys[order][np.sort(first)]


@pytest.mark.parametrize("k", [1, 10, 500, 1200])
def test_the_best_vectors_of_items_are_found(given, k):
    store, rows, owners, _ = given
    queries = np.stack([np.eye(DIM)[0], -rows[5]]).astype(np.float32)
    found = store.search(queries, k)
    for query, hits in zip(queries, found, strict=True):
        expected = best(rows @ query, owners)[:k]
        assert [int(hit.id) for hit in hits] == expected.tolist()
        scores = [hit.score for hit in hits]
        assert scores == sorted(scores, reverse=True)


def test_filters_and_groups_are_exact(given):
    store, rows, owners, brands = given
    query = np.eye(DIM)[0].astype(np.float32)
    keep = owners >= 300
    where = {"price": {"min": 300}}
    (hits,) = store.search(query[None], 20, where=where)
    expected = best((rows @ query)[keep], owners[keep])[:20]
    assert [int(hit.id) for hit in hits] == expected.tolist()
    # The nearest 1200 vectors belong to one item, and thus to one brand.
    (hits,) = store.search(query[None], 10, group_by="brand")
    expected = best(rows @ query, brands[owners])
    assert [int(hit.fields["brand"]) for hit in hits] == expected.tolist()
    (pages,) = store.search(query[None], 5, offset=15, where=where)
    assert pages == store.search(query[None], 20, where=where)[0][15:]
