import numpy as np

from mixer_jax.categories.clustering.merging import Merging, merge
from mixer_jax.categories.evidence.affinity import Evidence, Rates
from mixer_jax.categories.evidence.graph import ITEM_ITEM, QUERY_ITEM, Pairs


def _evidence(size, affinity=0.0, content=0.0):
    wide = np.zeros(size)
    return Evidence(Rates(), wide, wide + content, wide + affinity)


def _shown(first, second, exposures, clicks):
    size = len(first)
    return Pairs(
        np.array(first, np.int64),
        np.array(second, np.int64),
        np.full(size, QUERY_ITEM),
        np.zeros((size, 4)),
        np.array(exposures, np.int64),
        np.array(clicks, np.int64),
    )


def _merge(labels, pairs, evidence, max_size=0):
    return merge(np.array(labels), pairs, evidence, 10, Merging(), max_size)


def test_pooled_clicks_merge_clusters():
    # Queries 0 to 3 and items 4 to 7; every pair was shown three times.
    first, second = np.repeat(np.arange(4), 4), np.tile(np.arange(4, 8), 4)
    pairs = _shown(first, second, [3] * 16, [1] * 16)
    labels, made = _merge([0] * 4 + [1] * 4, pairs, _evidence(16))
    assert labels.tolist() == [0] * 8
    assert made == {"clicks": 1, "content": 0}
    one = pairs.where(np.arange(16) == 0)
    labels, made = _merge([0] * 4 + [1] * 4, one, _evidence(1))
    assert labels.tolist() == [0] * 4 + [1] * 4
    assert not any(made.values())


def test_clusters_shown_together_but_not_clicked_stay_apart():
    pairs = _shown([0, 1, 0, 1], [2, 3, 3, 2], [50] * 4, [30, 30, 1, 1])
    labels, _ = _merge([0, 1, 0, 1], pairs, _evidence(4))
    assert labels.tolist() == [0, 1, 0, 1]


def test_a_rare_item_joins_its_category():
    # Item 3 is noise: each of three queries has few exposures and clicks.
    pairs = _shown([0, 1, 2], [3, 3, 3], [4, 3, 4], [2, 1, 2])
    labels, made = _merge([0, 0, 0, -1], pairs, _evidence(3))
    assert labels.tolist() == [0] * 4
    assert made["clicks"] == 1


def test_similar_content_merges_unless_clicks_contradict():
    first, second = np.repeat([0, 1], 2), np.tile([2, 3], 2)
    like = Pairs(
        first,
        second,
        np.full(4, ITEM_ITEM),
        np.zeros((4, 4)),
        np.zeros(4, int),
        np.zeros(4, int),
    )
    labels, made = _merge([0, 0, 1, 1], like, _evidence(4, affinity=0.9))
    assert labels.tolist() == [0] * 4
    assert made == {"clicks": 0, "content": 1}
    labels, _ = _merge([0, 0, 1, 1], like, _evidence(4, affinity=0.3))
    assert labels.tolist() == [0, 0, 1, 1]
    seen = Pairs(
        *(getattr(like, n) for n in ("first", "second", "kind", "content")),
        np.array([0, 0, 0, 60]),
        np.zeros(4, int),
    )
    labels, _ = _merge([0, 0, 1, 1], seen, _evidence(4, affinity=0.9))
    assert labels.tolist() == [0, 0, 1, 1]


def test_noise_remains_if_there_is_nothing_to_merge():
    none = _shown([], [], [], [])
    labels, made = _merge([-1, 3, 3, -1], none, _evidence(0))
    assert labels.tolist() == [-1, 0, 0, -1]
    assert made == {"clicks": 0, "content": 0}


def test_merged_clusters_do_not_exceed_max_size():
    pairs = _shown([0, 1, 2], [3, 3, 3], [4, 3, 4], [2, 1, 2])
    labels, made = _merge([0, 0, 0, -1], pairs, _evidence(3), max_size=3)
    assert labels.tolist() == [0, 0, 0, -1]
    assert not any(made.values())
    labels, _ = _merge([0, 0, 0, -1], pairs, _evidence(3), max_size=4)
    assert labels.tolist() == [0] * 4
