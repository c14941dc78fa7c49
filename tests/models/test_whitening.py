"""The initial maps of both towers, fitted to pairs of encodings."""

import jax
import numpy as np
import pytest

from mixer_jax.models import whitening


def make_pairs(count=400, size=6, seed=0):
    """Returns pairs that share elements 0 and 1; the others are noise.

    The noise varies more than what the pairs share, and queries have another
    mean than documents.
    """
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(count, 2))
    pairs = rng.normal(size=(2, count, size)) * 3
    pairs[:, :, :2] = shared + 0.1 * rng.normal(size=(2, count, 2))
    pairs[1] += np.arange(size)
    return pairs.astype(np.float32)


def random_map(size, dim):
    rng = np.random.default_rng(9)
    return rng.normal(size=(size, dim)).astype(np.float32)


def measure(query, document, parts=1, mask=None):
    mask = np.full(len(query), True) if mask is None else mask
    moments = whitening.start(query.shape[1])
    for part in np.array_split(np.arange(len(query)), parts):
        moments = jax.jit(whitening.add)(
            moments, query[part], document[part], mask[part]
        )
    return jax.device_get(moments)


def test_directions_that_pairs_share_are_kept():
    found = whitening.solve(
        measure(*make_pairs()), random_map(6, 2), shrinkage=0.01
    )
    share = np.square(found.kernel) / np.square(found.kernel).sum(0)
    assert share[:2].sum(0).min() > 0.98


def test_encodings_are_centered_and_scaled():
    query, document = make_pairs()
    found = whitening.solve(measure(query, document), random_map(6, 4))
    mapped = np.stack(
        [
            (query - found.query) @ found.kernel,
            (document - found.document) @ found.kernel,
        ]
    )
    np.testing.assert_allclose(mapped.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(np.square(mapped).mean(), 1, rtol=1e-4)


def test_variance_within_pairs_is_equal_in_all_directions():
    query, document = make_pairs()
    found = whitening.solve(
        measure(query, document), random_map(6, 6), shrinkage=1e-6
    )
    within = np.cov(((query - document) @ found.kernel).T)
    expected = within[0, 0] * np.eye(6)
    np.testing.assert_allclose(within, expected, atol=2e-3 * within[0, 0])
    both = np.concatenate([query - found.query, document - found.document])
    variances = (both @ found.kernel).var(0)
    assert np.all(np.diff(variances) < 0)


def test_more_shrinkage_approaches_principal_components():
    query, document = make_pairs()
    found = whitening.solve(
        measure(query, document), random_map(6, 3), shrinkage=1e9
    )
    both = np.concatenate([query - query.mean(0), document - document.mean(0)])
    _, _, components = np.linalg.svd(both, full_matrices=False)
    cosines = components[:3] @ (
        found.kernel / np.linalg.norm(found.kernel, axis=0)
    )
    np.testing.assert_allclose(np.abs(cosines), np.eye(3), atol=1e-4)


def test_batches_add_up_and_masked_pairs_do_not_count():
    query, document = make_pairs(60)
    whole = measure(query, document)
    assert whole.count == 60
    for found, expected in zip(
        measure(query, document, parts=7), whole, strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)
    mask = np.arange(90) < 60
    noise = np.full((2, 30, 6), np.nan, np.float32)
    padded = measure(
        np.concatenate([query, noise[0]]),
        np.concatenate([document, noise[1]]),
        mask=mask,
    )
    for found, expected in zip(padded, whole, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)


def test_cosines_do_not_depend_on_the_order_of_the_pairs():
    query, document = make_pairs()
    pairs = [(query, document), (query[::-1], document[::-1])]
    kernels = [
        whitening.solve(measure(*both), random_map(6, 2)).kernel
        for both in pairs
    ]
    # Directions that vary equally may be rotated into each other.
    one, other = (kernel @ kernel.T for kernel in kernels)
    np.testing.assert_allclose(one, other, atol=1e-4)
    for kernel in kernels:
        largest = np.abs(kernel).argmax(0)
        assert (kernel[largest, range(2)] > 0).all()


def test_directions_without_variance_stay_random():
    pairs = make_pairs() @ np.eye(6, 8, dtype=np.float32)
    random = random_map(8, 9)
    found = whitening.solve(measure(*pairs), random).kernel
    np.testing.assert_allclose(found[6:, :6], 0, atol=1e-6)
    np.testing.assert_allclose(
        found[:, 6:] / np.linalg.norm(found[:, 6:], axis=0),
        random[:, 6:] / np.linalg.norm(random[:, 6:], axis=0),
        atol=1e-5,
    )
    # They are scaled like the others.
    query, document = pairs
    difference = (query - query.mean(0)) - (document - document.mean(0))
    within = difference.T @ difference / len(query) / 2
    within += whitening.SHRINKAGE * np.trace(within) / len(query) * np.eye(8)
    scales = np.einsum("cd,ce,ed->d", found, within, found)
    np.testing.assert_allclose(scales, scales[0], rtol=1e-3)


def test_few_pairs_keep_other_differences_visible():
    query, document = make_pairs(3, size=40)
    found = whitening.solve(measure(query, document), random_map(40, 12))
    assert np.linalg.matrix_rank(found.kernel) == 12


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_pairs_have_no_whitening(count):
    assert (
        whitening.solve(measure(*make_pairs(count)), random_map(6, 2)) is None
    )


def test_equal_pairs_have_no_whitening():
    query, _ = make_pairs()
    assert whitening.solve(measure(query, query), random_map(6, 2)) is None


def test_a_fusion_without_the_image_has_one_whitened_tower():
    found = whitening.solve(measure(*make_pairs()), random_map(6, 2))
    layers = {"linear": {"kernel": 0}, "out": {"kernel": 1, "bias": 2}}
    params = {"query_layers": layers, "fusion": {"concept": {"kernel": 3}}}
    applied = whitening.apply(params, found)
    assert applied["fusion"] == params["fusion"]
    np.testing.assert_allclose(
        applied["query_layers"]["out"]["bias"], -found.query @ found.kernel
    )
