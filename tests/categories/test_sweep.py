import numpy as np

from mixer_jax.categories import find, outcome, sweep
from mixer_jax.categories.quality.against_truth import shape
from mixer_jax.categories.settings import Settings


def test_each_point_matches_a_separate_search(shop):
    found = outcome.read(shop, shop / "log")
    points = list(
        sweep.sweep(found.features, found.log.clicks, (0.2, 0.9), (3,))
    )
    assert [(p.threshold, p.neighbors) for p in points] == [(0.2, 3), (0.9, 3)]
    alone = find.find_categories(
        found.features,
        found.log.clicks,
        Settings(threshold=0.2, neighbors=3),
    )
    assert (points[0].labels == alone.combined).all()
    queries = np.arange(len(found.labels)) < len(found.query_labels)
    noise = [shape(p.labels, queries)["noise_share"] for p in points]
    assert noise[0] < noise[1]
    assert all(p.seconds > 0 for p in points)
