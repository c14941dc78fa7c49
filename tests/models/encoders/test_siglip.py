import pytest

from mixer_jax.models.encoders import siglip
from tests.models import parity

_SIZES = dict(width=24, layers=2, heads=3, hidden=40)
VISION = siglip.SiglipVisionConfig(**_SIZES, patch=4, image_size=16)
TEXT = siglip.SiglipTextConfig(**_SIZES, vocabulary=50, positions=12)


class TestVision(parity.ImageTests):
    module = siglip.SiglipVision
    config = VISION
    keys = siglip.VISION_KEYS
    from_original = staticmethod(siglip.vision_from_original)
    to_original = staticmethod(siglip.vision_to_original)

    @classmethod
    def original(cls, config):
        return super().original(config | {"vision_use_head": True})


class TestText(parity.TextTests):
    module = siglip.SiglipText
    config = TEXT
    keys = siglip.TEXT_KEYS
    from_original = staticmethod(siglip.text_from_original)
    to_original = staticmethod(siglip.text_to_original)


def _both(vision, text):
    return {
        "model_type": "siglip",
        "architectures": ["SiglipModel"],
        "vision_config": siglip.vision_to_original(vision)
        | {"vision_use_head": True},
        "text_config": siglip.text_to_original(text),
    }


def test_each_tower_loads_from_a_combined_file(tmp_path):
    config = _both(VISION, TEXT)
    parity.check_combined_file(
        config, tmp_path, vision=TestVision, text=TestText
    )


def test_missing_sizes_have_the_defaults_of_the_original():
    config = {"vision_config": {}, "text_config": {}}
    vision = siglip.vision_from_original(config)
    assert vision == siglip.VISION_CONFIGS["siglip-b16"]
    text = siglip.text_from_original(config)
    assert text == siglip.TEXT_CONFIGS["siglip-b16"]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("siglip-b16", 203_155_970),
        ("siglip-l16", 652_150_786),
        ("siglip-so400m", 877_960_498),
    ],
)
def test_size_of_the_published_model(name, parameters):
    vision, text = siglip.VISION_CONFIGS[name], siglip.TEXT_CONFIGS[name]
    ours = parity.count_images(siglip.SiglipVision(vision))
    ours += parity.count_texts(siglip.SiglipText(text))
    # The whole model also has two scalars and two heads: attention by a token,
    # a norm and an MLP for images; a dense layer for texts.
    width, hidden = vision.width, vision.hidden
    attention = 4 * (width + 1) * width
    mlp = (width + 1) * hidden + (hidden + 1) * width
    more = width + attention + 2 * width + mlp + (text.width + 1) * text.width
    assert ours + more + 2 == parameters
    assert parity.count_original(_both(vision, text)) == parameters
