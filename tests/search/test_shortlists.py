import numpy as np

from mixer_jax.search import shortlists


def test_a_shortlist_keeps_the_largest_products():
    rng = np.random.default_rng(0)
    product = rng.permutation(12 * 40).reshape(12, 40).astype(np.float32)
    lists = shortlists.Shortlist.empty(12, kept=5)
    for start in range(0, 40, 8):
        part = slice(start, start + 8)
        lists = lists.offer(product[:, part], start, np.arange(8) != 5)
    product[:, 5::8] = -np.inf  # excluded by the mask
    order = np.argsort(-product, axis=1)[:, :6]
    np.testing.assert_array_equal(lists.group, order)
    np.testing.assert_array_equal(
        lists.largest, np.take_along_axis(product, order, 1)
    )
