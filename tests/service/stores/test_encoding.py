import numpy as np
import pytest

from mixer_jax.runtime.arrays import normalize
from mixer_jax.service.stores import encoding
from mixer_jax.service.stores.encoding import Loss


@pytest.mark.parametrize(
    ("storage", "worst"), [("f32", 0), ("f16", 1e-3), ("int8", 2e-2)]
)
def test_embeddings_are_read_back(storage, worst):
    rng = np.random.default_rng(0)
    unit = normalize(rng.standard_normal((100, 64)))
    unit[0] = np.eye(64)[3]
    blobs = encoding.encode(unit, storage)
    assert {len(blob) for blob in blobs} == {encoding.size(64, storage)}
    again = encoding.decode(b"".join(blobs), 64, storage)
    np.testing.assert_allclose(np.linalg.norm(again, axis=1), 1, atol=1e-6)
    lost = np.linalg.norm(unit - again, axis=1)
    loss = Loss.measure(unit, blobs, storage)
    assert loss.worst == pytest.approx(lost.max(), rel=1e-5)
    assert loss.mean == pytest.approx(lost.mean(), rel=1e-5)
    assert loss.worst <= worst
    # The loss bounds the error of every cosine.
    error = np.abs(unit @ unit.T - unit @ again.T).max()
    assert error <= loss.worst + 1e-6
    assert (loss.worst > 0) == (storage != "f32")


def test_losses_are_added():
    both = Loss(1, 0.5, 0.5).plus(Loss(3, 0.7, 0.4))
    assert both == (4, pytest.approx(1.2), 0.5)
    assert Loss().mean == 0


def test_contents_differ():
    parts = [(b"", "ab"), (b"a", "b"), (b"ab", ""), ("ab", b"", b"")]
    assert len({encoding.content(*one) for one in parts}) == 4
    assert encoding.content("a") == encoding.content(b"a")
    assert len(encoding.content()) == 16
