import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

from mixer_jax.models.encoders import vit
from mixer_jax.runtime.errors import UserError
from tests.models import parity

TINY = vit.ViTConfig(
    width=24, layers=2, heads=3, hidden=40, patch=4, image_size=16
)


class TestViT(parity.ImageTests):
    module = vit.ViT
    config = TINY
    keys = vit.KEYS
    from_original = staticmethod(vit.from_original)
    to_original = staticmethod(vit.to_original)


def test_weights_of_a_classifier_load(tmp_path):
    config = vit.to_original(TINY) | {
        "architectures": ["ViTForImageClassification"]
    }
    model = parity.randomize(parity.make_original(config))
    model.save_pretrained(tmp_path)
    tensors, _ = parity.read(tmp_path)
    inputs = TestViT.inputs[0]
    variables = vit.KEYS.load(
        tensors, parity.shapes(vit.ViT(TINY), inputs), "a classifier"
    )
    for name, tensor in vit.KEYS.store(variables).items():
        np.testing.assert_array_equal(tensor, tensors[f"vit.{name}"])


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("vit-s", 21_665_664), ("vit-b", 85_798_656), ("vit-l", 303_301_632)],
)
def test_size_of_the_published_model(name, parameters):
    config = vit.CONFIGS[name]
    assert parity.count_images(vit.ViT(config)) == parameters
    # The original also has a pooler, a dense layer on CLS.
    pooler = (config.width + 1) * config.width
    original = parity.count_original(vit.to_original(config))
    assert original == parameters + pooler


@pytest.mark.slow
def test_dropout_only_while_training():
    images = TestViT.inputs[0][0]
    model = vit.ViT(dataclasses.replace(TINY, layers=1), dropout=0.5)
    variables = jax.jit(model.init)(parity.KEY, images)

    @partial(jax.jit, static_argnums=(1, 2))
    def apply(seed, train, remat=False):
        rngs = {"dropout": jax.random.key(seed)}
        return model.clone(remat=remat).apply(
            variables, images, train, rngs=rngs
        )

    np.testing.assert_array_equal(apply(0, False), apply(1, False))
    assert np.abs(apply(0, True) - apply(1, True)).max() > 1e-2
    np.testing.assert_allclose(apply(0, True), apply(0, True, True), atol=1e-5)


def test_config_without_qkv_bias_is_refused():
    config = vit.to_original(TINY) | {"qkv_bias": False}
    with pytest.raises(UserError, match="qkv_bias = False"):
        vit.from_original(config)
