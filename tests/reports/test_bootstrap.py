import numpy as np

from mixer_jax.reports import bootstrap


def test_interval_matches_a_slow_bootstrap():
    rng = np.random.default_rng(0)
    categories = rng.integers(0, 12, 60) * 3
    first, second = rng.random(60), rng.random(60)
    found = bootstrap.compare(first, second, categories, rounds=300, seed=4)
    ids, means = np.unique(categories), []
    for counts in bootstrap.draw(len(ids), 300, seed=4):
        queries = np.concatenate(
            [
                np.flatnonzero(categories == category)
                for category, count in zip(ids, counts, strict=True)
                for _ in range(count)
            ]
        )
        means.append(np.mean(first[queries]) - np.mean(second[queries]))
    low, high = np.percentile(means, [2.5, 97.5])
    np.testing.assert_allclose(
        found, (np.mean(first - second), low, high), rtol=1e-12
    )


def test_categories_are_drawn_with_replacement():
    drawn = bootstrap.draw(5, 1000)
    assert (drawn.sum(axis=1) == 5).all()
    assert drawn.max() > 1
    np.testing.assert_allclose(drawn.mean(axis=0), 1.0, atol=0.1)


def test_queries_of_a_category_are_drawn_together():
    """Ten copies of each query do not make the interval narrower."""
    rng = np.random.default_rng(1)
    first, second = rng.random(20), rng.random(20)
    one = bootstrap.compare(first, second, np.arange(20))
    many = bootstrap.compare(
        *(np.repeat(values, 10) for values in (first, second, np.arange(20)))
    )
    np.testing.assert_allclose(many, one, rtol=1e-9)
