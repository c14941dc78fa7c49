import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax import mesh as mesh_lib
from mixer_jax.models import attention


def _random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _attend(scores, mix, query, key, value):
    """Attention, its weights, and a number to differentiate."""
    logits = scores(query, key)
    weights = jax.nn.softmax(logits)
    out = mix(weights, value)
    return jnp.square(out).sum() + logits[..., 0].sum(), (weights, out)


def _plain(query, key, value):
    return _attend(
        lambda q, k: jnp.einsum("...lhd,...mhd->...hlm", q, k),
        lambda w, v: jnp.einsum("...hlm,...mhd->...lhd", w, v),
        *(query, key, value),
    )


def _ours(query, key, value):
    return _attend(attention.scores, attention.mix, query, key, value)


@pytest.mark.parametrize("batch", [(3,), (2, 4), ()], ids=str)
def test_attention_and_its_gradients(batch):
    # Fewer keys than queries, and values of another width.
    query = _random(*batch, 5, 2, 3)
    key = _random(*batch, 4, 2, 3, seed=1)
    value = _random(*batch, 4, 2, 6, seed=2)
    runs = [
        jax.jit(jax.value_and_grad(f, (0, 1, 2), has_aux=True))
        for f in (_ours, _plain)
    ]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        *(run(query, key, value) for run in runs),
    )


def test_a_batch_split_over_devices(num_devices):
    mesh = mesh_lib.make_mesh(jax.devices()[:num_devices])
    given = [_random(8, 5, 2, 3, seed=seed) for seed in range(3)]
    run = jax.jit(jax.value_and_grad(_ours, (0, 1, 2), has_aux=True))
    split = [mesh_lib.put_batch(x, mesh) for x in given]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        run(*split),
        run(*given),
    )
    # Every head of a batch is attended to where it lies.
    assert "all-gather" not in run.lower(*split).compile().as_text()
