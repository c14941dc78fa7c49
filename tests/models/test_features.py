from pathlib import Path

import jax
import matplotlib
import numpy as np
import pytest

from mixer_jax.models import features
from mixer_jax.runtime.errors import UserError


def test_text_similarities_match_the_published_ones():
    """The expected cosines come from the model's documentation."""
    texts = [
        "The new movie is awesome",
        "The new movie is so great",
        "A man is playing guitar",
        "A woman watches TV",
        "That is a happy person",
        "That is a very happy person",
        "",
    ]
    found = features.text_features("minilm", texts, length=16, batch_size=4)
    assert found.shape == (7, 384)
    assert found.dtype == np.float32
    unit = found[:6] / np.linalg.norm(found[:6], axis=1, keepdims=True)
    np.testing.assert_allclose(unit[0] @ unit[1], 0.8939, atol=1e-3)
    np.testing.assert_allclose(unit[2] @ unit[3], -0.0327, atol=1e-3)
    np.testing.assert_allclose(unit[4] @ unit[5], 0.9429, atol=1e-3)
    np.testing.assert_array_equal(found[6], 0)


def test_text_features_do_not_depend_on_the_batch():
    texts = ["a b c d e f g h i j k", "shoe", "", "a red shoe", "shoe"]
    together = features.text_features("minilm", texts, 16, batch_size=2)
    for row, text in zip(together, texts, strict=True):
        alone = features.text_features("minilm", [text], 16, batch_size=2)
        np.testing.assert_allclose(row, alone[0], atol=1e-5)
    assert features.text_features("minilm", [], 16).shape[0] == 0


def test_image_features_do_not_depend_on_the_batch():
    folder = Path(matplotlib.get_data_path())
    photo = folder / "sample_data/grace_hopper.jpg"
    logo = folder / "images/matplotlib.png"
    paths = [photo, logo, photo]
    found = features.image_features(
        "efficientnet-lite0", paths, 64, batch_size=2
    )
    assert found.shape == (3, 1280)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], found[2], atol=1e-4)
    assert np.abs(found[0] - found[1]).max() > 0.1


@pytest.mark.slow
def test_image_features_do_not_depend_on_the_devices(monkeypatch):
    folder = Path(matplotlib.get_data_path())
    photo = folder / "sample_data/grace_hopper.jpg"
    logo = folder / "images/matplotlib.png"
    paths = [photo, logo, photo, logo, logo]

    def encode():
        return features.image_features(
            "efficientnet-lite0", paths, 32, batch_size=2
        )

    devices = jax.local_devices()
    assert len(devices) > 1
    together = encode()
    monkeypatch.setattr(features.jax, "local_devices", lambda: devices[:1])
    np.testing.assert_array_equal(together, encode())


def test_unknown_encoders_raise_an_error():
    with pytest.raises(UserError, match="no text encoder named 'minilm2'"):
        features.text_features("minilm2", ["a"], 8)
    with pytest.raises(UserError, match="did you mean 'efficientnet-lite0'"):
        features.image_features("efficientnet", [], 64)
    for name in ("resnet50", "minilm", "x", "vit {}"):
        with pytest.raises(UserError, match=r"Known: efficientnet-lite0\.$"):
            features.image_features(name, [], 64)
