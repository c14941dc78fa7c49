"""Zero-shot models: CLIP's embeddings against those of its original."""

import numpy as np
import pytest

from mixer_jax.models import factory, zero_shot
from mixer_jax.models.encoders import clip
from mixer_jax.training.config import defaults as config_lib
from tests.models import parity

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = dict(
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=40,
)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A small random CLIP, and the folder that contains it."""
    config = transformers.CLIPConfig(
        vision_config=SIZES | {"patch_size": 4, "image_size": 16},
        text_config=SIZES
        | {
            "vocab_size": 50,
            "max_position_embeddings": 12,
            "bos_token_id": 0,
            "eos_token_id": 49,
        },
        projection_dim=20,
    )
    model = parity.randomize(transformers.CLIPModel(config))
    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    return model, folder


@pytest.fixture(scope="module")
def ours(original):
    _, folder = original
    config = config_lib.defaults()
    config.model.fusion, config.model.dim = zero_shot.CLIP, 20
    config.model.image.pretrained = config.model.text.pretrained = str(folder)
    config.data.tokenizer = "minilm"
    factory.resolve(config)
    model = zero_shot.make_model(config.model)
    return model, zero_shot.load_variables(model, config.model, 16, 12)


IMAGES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
# Each text ends with the end token, 49; the last one has no text.
TOKENS = np.array([[0, 3, 4, 49, 1, 1], [0, 7, 49, 1, 1, 1], [1] * 6], np.int32)
MASK = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0], [0] * 6], bool)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_clip_embeddings_match_the_original(original, ours):
    theirs, _ = original
    model, variables = ours
    pixels = (IMAGES - np.array(clip.ClipVisionConfig().mean)) / np.array(
        clip.ClipVisionConfig().std
    )
    with torch.no_grad():
        image = theirs.get_image_features(
            torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32)
        )
        text = theirs.get_text_features(
            torch.tensor(TOKENS[:2], dtype=torch.long),
            torch.tensor(MASK[:2], dtype=torch.long),
        )
    image, text = (
        unit(getattr(x, "pooler_output", x).numpy()) for x in (image, text)
    )
    found = model.apply(variables, {"image": IMAGES}, method="encode_query")
    np.testing.assert_allclose(found, image, atol=2e-5)
    document = {
        "image": IMAGES,
        "has_image": np.array([False, False, True]),
        "tokens": TOKENS,
        "token_mask": MASK,
    }
    found = model.apply(variables, document, method="encode_document")
    np.testing.assert_allclose(found[:2], text, atol=2e-5)
    np.testing.assert_allclose(found[2], image[2], atol=2e-5)
    both = document | {"has_image": np.ones(3, bool)}
    found = model.apply(variables, both, method="encode_document")
    np.testing.assert_allclose(found[:2], unit(image[:2] + text), atol=2e-5)


def test_mean_patches_of_a_document_without_an_image_are_zero():
    class Patches(zero_shot.nn.Module):
        def __call__(self, images):
            return images.reshape(len(images), -1, 3)

    model = zero_shot.MeanPatches(Patches())
    document = {"image": IMAGES, "has_image": np.array([True, False, True])}
    found = model.apply({}, document, method="encode_document")
    wanted = unit(IMAGES.astype(np.float32).mean((1, 2)))
    np.testing.assert_allclose(found[::2], wanted[::2], atol=1e-6)
    assert not np.asarray(found[1]).any()
    query = model.apply({}, {"image": IMAGES}, method="encode_query")
    np.testing.assert_allclose(query, wanted, atol=1e-6)


def test_other_models_are_not_zero_shot():
    assert zero_shot.make_model(config_lib.defaults().model) is None
