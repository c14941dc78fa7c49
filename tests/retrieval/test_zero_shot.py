"""Zero-shot models from packaged encoders."""

import numpy as np
import pytest

import mixer_jax
from mixer_jax.models import features
from mixer_jax.runtime.errors import UserError

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)


def test_pictures_are_embedded_as_the_mean_of_their_patches(tmp_path):
    from PIL import Image

    files = []
    for number, pixels in enumerate(PICTURES):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(files[-1])
    model = mixer_jax.from_encoders("efficientnet-lite0", image_size=64)
    expected = features.image_features("efficientnet-lite0", files, 64)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(model.embed_queries(files), expected, atol=1e-5)
    np.testing.assert_allclose(
        model.embed_documents(files), expected, atol=1e-5
    )
    model.save(tmp_path / "bundle")
    again = mixer_jax.load(tmp_path / "bundle")
    assert again.fingerprint == model.fingerprint
    np.testing.assert_array_equal(
        again.embed_queries(files), model.embed_queries(files)
    )
    assert (
        "without any training"
        in (tmp_path / "bundle" / "README.md").read_text()
    )


def test_an_unaligned_text_encoder_is_ignored():
    model = mixer_jax.from_encoders(
        "efficientnet-lite0", "minilm", image_size=64
    )
    assert "were not trained together" in model.ignores_text
    with pytest.warns(UserWarning, match="have no common space"):
        found = model.embed_documents(PICTURES, ["red", None, ""])
    np.testing.assert_array_equal(found, model.embed_documents(PICTURES))
    with pytest.raises(UserError, match="Document 0 has no picture"):
        model.embed_documents(texts=["red"])


def test_unknown_encoders_raise_an_error():
    with pytest.raises(UserError, match="no-such-encoder"):
        mixer_jax.from_encoders("no-such-encoder")
    with pytest.raises(UserError, match="no-such-encoder"):
        mixer_jax.from_encoders(text="no-such-encoder")
