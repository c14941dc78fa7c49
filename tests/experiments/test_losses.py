"""Losses against slow references that loop over samples, in float64."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.experiments import losses
from mixer_jax.experiments.baselines import symmetric_infonce
from mixer_jax.proxies import heads, row_optimizers
from mixer_jax.proxies.interface import HeadInput
from mixer_jax.runtime.mesh import make_mesh
from mixer_jax.training.config import defaults

LABELS = np.array([0, 2, 1, 2, 0])  # categories 0 and 2 have two pairs
CATEGORIES = 4  # the last one has no sample


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def draw(rows, seed):
    return np.random.default_rng(seed).normal(size=(rows, 3))


QUERY, DOCUMENT = unit(draw(5, 0)), unit(draw(5, 1))
PROXIES = draw(CATEGORIES, 2)


def cosface(x, y, proxies):
    total = 0.0
    for one, label in zip(x, y, strict=True):
        logits = [8.0 * float(one @ p) for p in unit(proxies)]
        logits[label] -= 8.0 * 0.3
        total += math.log(sum(map(math.exp, logits))) - logits[label]
    return total / len(y)


def proxy_nca(x, y, proxies):
    total = 0.0
    for one, label in zip(x, y, strict=True):
        squares = [2.0 * float(((one - p) ** 2).sum()) for p in unit(proxies)]
        others = [math.exp(-d) for c, d in enumerate(squares) if c != label]
        total -= math.log(math.exp(-squares[label]) / sum(others))
    return total / len(y)


def proxy_anchor(x, y, proxies):
    pulled, pushed, found = 0.0, 0.0, 0
    for category, proxy in enumerate(unit(proxies)):
        cosines = [float(one @ proxy) for one in x]
        own = [c for c, z in zip(cosines, y, strict=True) if z == category]
        others = [c for c, z in zip(cosines, y, strict=True) if z != category]
        found += bool(own)
        pulled += math.log1p(sum(math.exp(-4.0 * (c - 0.1)) for c in own))
        pushed += math.log1p(sum(math.exp(4.0 * (c + 0.1)) for c in others))
    return pulled / found + pushed / len(proxies)


def linear_softmax(x, y, kernel):
    total = 0.0
    for one, label in zip(x, y, strict=True):
        logits = [float(one @ w) + 0.1 * c for c, w in enumerate(kernel)]
        total += math.log(sum(map(math.exp, logits))) - logits[label]
    return total / len(y)


def triplet(q, d, y):
    hinges = []
    for anchors, others in ((q, d), (d, q)):
        for anchor, label in zip(anchors, y, strict=True):
            distances = [float(np.linalg.norm(anchor - o)) for o in others]
            pairs = list(zip(distances, y, strict=True))
            far = max(r for r, z in pairs if z == label)
            near = min(r for r, z in pairs if z != label)
            hinges.append(max(0.5 + far - near, 0.0))
    return sum(hinges) / len(hinges)


def sigmoid(q, d, y):
    total = 0.0
    for i, one in enumerate(q):
        for j, other in enumerate(d):
            logit = 5.0 * float(one @ other) - 2.0
            if i == j:
                total += math.log1p(math.exp(-logit))
            elif y[i] != y[j]:
                total += math.log1p(math.exp(logit))
    return total / len(y)


def infonce(q, d, y):
    total = 0.0
    for left, right in ((q, d), (d, q)):
        for i, one in enumerate(left):
            terms = [
                math.exp(float(one @ other) / 0.2)
                for j, other in enumerate(right)
                if i == j or y[i] != y[j]
            ]
            own = math.exp(float(one @ right[i]) / 0.2)
            total += math.log(sum(terms) / own)
    return total / (2 * len(y))


BIAS = 0.1 * np.arange(CATEGORIES)
# (the loss, the slow reference, its arrays besides the labels)
CASES = {
    "cosface": (
        lambda x, y, p: losses.cosface(x, y, p, 8.0, 0.3),
        cosface,
        (QUERY, PROXIES),
    ),
    "proxy_nca": (
        lambda x, y, p: losses.proxy_nca(x, y, p, 2.0),
        proxy_nca,
        (QUERY, PROXIES),
    ),
    "proxy_anchor": (
        lambda x, y, p: losses.proxy_anchor(x, y, p, 4.0, 0.1),
        proxy_anchor,
        (QUERY, PROXIES),
    ),
    "linear_softmax": (
        lambda x, y, p: losses.linear_softmax(x, y, p, jnp.asarray(BIAS)),
        linear_softmax,
        (2.0 * QUERY, PROXIES),
    ),
    "batch_hard_triplet": (
        lambda q, y, d: losses.batch_hard_triplet(q, d, y, 0.5),
        lambda q, y, d: triplet(q, d, y),
        (QUERY, DOCUMENT),
    ),
    "sigmoid_pairs": (
        lambda q, y, d: losses.sigmoid_pairs(q, d, y, 5.0, -2.0),
        lambda q, y, d: sigmoid(q, d, y),
        (QUERY, DOCUMENT),
    ),
    "infonce": (
        lambda q, y, d: symmetric_infonce(q, d, y, 0.2),
        lambda q, y, d: infonce(q, d, y),
        (QUERY, DOCUMENT),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_match_the_reference(name):
    loss, reference, (first, second) = CASES[name]

    def of(first, second):
        return loss(first, jnp.asarray(LABELS), second)

    arrays = tuple(jnp.asarray(a, jnp.float32) for a in (first, second))
    value, gradients = jax.jit(jax.value_and_grad(of, (0, 1)))(*arrays)
    np.testing.assert_allclose(
        value, reference(first, LABELS, second), rtol=1e-5
    )
    # Compare the gradient with central differences of the reference.
    for place, gradient in enumerate(gradients):
        direction = np.random.default_rng(3).normal(size=gradient.shape)
        if name == "batch_hard_triplet":  # defined on the unit sphere only
            rows = (first, second)[place]
            direction -= (direction * rows).sum(1, keepdims=True) * rows
        ends = []
        for sign in (1e-5, -1e-5):
            moved = [first, second]
            moved[place] = moved[place] + sign * direction
            ends.append(reference(moved[0], LABELS, moved[1]))
        slope = (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose(
            float((gradient * direction).sum()), slope, rtol=1e-3, atol=1e-4
        )


def test_cosface_equals_the_exact_head():
    config, mesh = defaults.defaults(), make_mesh(jax.devices()[:1])
    config.head.scale, config.head.margin_size = 8.0, 0.3
    head = heads.make_head(config.head, mesh, CATEGORIES, len(LABELS))
    optimizer = row_optimizers.sgd()
    proxies = jnp.asarray(PROXIES, jnp.float32)
    given = HeadInput(
        proxies=proxies,
        embeddings=jnp.asarray(QUERY, jnp.float32),
        labels=jnp.asarray(LABELS, jnp.int32),
        key=jax.random.key(0),
        moments=optimizer.init(proxies),
        learning_rate=1.0,
    )
    step = head.step(optimizer, given)
    loss = functools.partial(losses.cosface, scale=8.0, margin=0.3)
    value, (own, others) = jax.value_and_grad(
        lambda x, p: loss(x, given.labels, p), (0, 1)
    )(given.embeddings, proxies)
    np.testing.assert_allclose(step.loss, value, rtol=1e-5)
    # The head's gradient includes the normalization of the embeddings.
    radial = (own * QUERY).sum(1, keepdims=True)
    np.testing.assert_allclose(
        step.d_embeddings, own - radial * QUERY, atol=1e-5
    )
    np.testing.assert_allclose(proxies - step.proxies, others, atol=1e-5)


def test_triplets_without_a_negative_are_not_counted():
    same = jnp.zeros(5, jnp.int32)
    query, document = (jnp.asarray(x, jnp.float32) for x in (QUERY, DOCUMENT))
    assert losses.batch_hard_triplet(query, document, same, 0.5) == 0.0
    twin = jnp.ones((2, 3)) / math.sqrt(3)
    slope = jax.grad(losses.batch_hard_triplet)(twin, twin, jnp.arange(2), 0.5)
    assert np.isfinite(slope).all()  # of equal vectors, too
