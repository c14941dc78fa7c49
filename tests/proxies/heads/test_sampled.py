import functools

import jax
import numpy as np
import pytest

from mixer_jax.proxies import interface, row_optimizers
from mixer_jax.runtime.errors import UserError

# 20 of 37 rows on one device; 10, 5 and 3 on each of 2, 4 and 8.
HALF = {"active": 0.52, "neighbors": 4}
NAMES = ["sampled", "knn", "topk"]
ONE = pytest.param(1, marks=pytest.mark.slow)


def given(problem, key, graph=None):
    return interface.HeadInput(
        problem.proxies, problem.embeddings, problem.labels, key, graph
    )


def small_batch(problem):
    """Keeps 8 samples, whose positives fit into half of the rows."""
    problem.batch = 8
    problem.embeddings = problem.embeddings[-8:]
    problem.labels = problem.labels[-8:]


@pytest.fixture(scope="module")
def exact():
    """A cache of the exact head's results, by number of devices."""
    return {}


@pytest.mark.parametrize("importance", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_all_rows_active_matches_exact(
    name,
    importance,
    problem,
    num_devices,
    make_head,
    gradients,
    exact,
    assert_close,
):
    if num_devices not in exact:
        exact[num_devices] = gradients(make_head())
    head = make_head(name=name, active=1.0, importance=importance)
    graph = head.build_graph(problem.proxies)
    active = gradients(head, graph)
    jax.tree.map(
        functools.partial(assert_close, rtol=1e-6), active, exact[num_devices]
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_devices", [ONE, 2], indirect=True)
def test_loss_is_the_softmax_over_the_active_set(
    name, problem, make_head, gradients, reference, categories, assert_close
):
    small_batch(problem)
    head = make_head(name=name, **HALF)
    graph = head.build_graph(problem.proxies)
    key = jax.random.key(5)
    rows = head.select(given(problem, key, graph))
    active = categories(rows)
    assert len(active) == 20
    loss, d_embeddings, d_proxies, _ = gradients(head, graph, key)
    expected = reference(among=active)
    assert_close(loss, expected[0])
    assert_close(d_embeddings, expected[1])
    assert_close(d_proxies, expected[2])


@pytest.mark.parametrize("num_devices", [ONE, 2], indirect=True)
def test_random_rows_are_weighted_by_the_rows_they_represent(
    problem, mesh, make_head, gradients, reference, categories, assert_close
):
    """`sampled` draws uniformly among the other rows of each device."""
    small_batch(problem)
    head = make_head(name="sampled", importance=True, **HALF)
    key = jax.random.key(5)
    active = categories(head.select(given(problem, key)))
    positives = np.unique(problem.labels)
    drawn = np.setdiff1d(active, positives)
    weights = np.ones(37)
    local = len(problem.proxies) // mesh.size
    for device in range(mesh.size):
        here = range(device * local, min((device + 1) * local, 37))
        own = np.intersect1d(drawn, here)
        weights[own] = len(np.setdiff1d(here, positives)) / len(own)
    loss, d_embeddings, d_proxies, _ = gradients(head, None, key)
    expected = reference(among=active, weights=weights)
    assert_close(loss, expected[0])
    assert_close(d_embeddings, expected[1])
    assert_close(d_proxies, expected[2])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_devices", [ONE, 4], indirect=True)
def test_inactive_rows_are_unchanged_and_positives_active(
    name, problem, make_head, categories
):
    small_batch(problem)
    head = make_head(name=name, **HALF | {"active": 0.8})
    graph = head.build_graph(problem.proxies)
    optimizer = row_optimizers.sgd(0.9)
    step = jax.jit(functools.partial(head.step, optimizer))
    before = problem.proxies, optimizer.init(problem.proxies) + 1.0
    for seed in range(5):
        data = given(problem, jax.random.key(seed), graph)._replace(
            proxies=before[0], moments=before[1], learning_rate=0.1
        )
        active = categories(head.select(data))
        assert set(np.array(problem.labels)) <= set(active)
        inactive = np.setdiff1d(np.arange(len(problem.proxies)), active)
        assert inactive.size
        out = step(data)
        after = out.proxies, out.moments
        for old, new in zip(before, after, strict=True):
            real = inactive[inactive < problem.num_categories]
            np.testing.assert_array_equal(new[real], old[real])
            changed = (np.array(new) != np.array(old)).any(1)
            assert changed[active].all()
        before = after


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_devices", [ONE, 4], indirect=True)
def test_active_set_changes_only_with_the_key(name, problem, make_head):
    small_batch(problem)
    head = make_head(name=name, **HALF | {"active": 0.8})
    graph = head.build_graph(problem.proxies)
    one, again, other = (
        np.array(head.select(given(problem, jax.random.key(seed), graph)))
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, again)
    assert one.shape == other.shape
    assert (one != other).any()


@pytest.mark.parametrize("num_devices", [2], indirect=True)
def test_batch_with_too_many_positives_is_refused(problem, make_head):
    half = HALF | {"name": "knn"}
    with pytest.raises(UserError, match=r"10 of the 19 .* 0\.842106 or more"):
        make_head(**half)
    assert make_head(**half | {"active": 0.842106}).active >= 16
    problem.batch = 8
    head = make_head(**half)
    graph = head.build_graph(problem.proxies)
    with pytest.raises(UserError, match="batch of 16"):
        head.select(given(problem, jax.random.key(0), graph))
