import numpy as np
import pytest

from mixer_jax.models.encoders import clip
from mixer_jax.runtime.errors import UserError
from tests.models import parity

_SIZES = dict(width=24, layers=2, heads=3, hidden=40)
VISION = clip.ClipVisionConfig(**_SIZES, patch=4, image_size=16)
TEXT = clip.ClipTextConfig(**_SIZES, vocabulary=50, positions=12)


class TestVision(parity.ImageTests):
    module = clip.ClipVision
    config = VISION
    keys = clip.VISION_KEYS
    from_original = staticmethod(clip.vision_from_original)
    to_original = staticmethod(clip.vision_to_original)


class TestText(parity.TextTests):
    module = clip.ClipText
    config = TEXT
    keys = clip.TEXT_KEYS
    from_original = staticmethod(clip.text_from_original)
    to_original = staticmethod(clip.text_to_original)

    def test_text_attention_is_causal(self, example):
        tokens, mask = self.inputs[0]
        changed = tokens.copy()
        changed[:, 4] += 1
        before, _ = self.run(example, tokens, mask)
        after, _ = self.run(example, changed % 50, mask)
        same = np.all(before[0] == after[0], -1)
        np.testing.assert_array_equal(same, np.arange(9) < 4)


def _both(vision, text):
    return {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "vision_config": clip.vision_to_original(vision),
        "text_config": clip.text_to_original(text),
    }


def test_each_tower_loads_from_a_combined_file(tmp_path):
    config = _both(VISION, TEXT)
    parity.check_combined_file(
        config, tmp_path, vision=TestVision, text=TestText
    )


def test_config_dict_keys_take_precedence():
    config = _both(VISION, TEXT) | {"vision_config_dict": {"patch_size": 14}}
    vision = clip.vision_from_original(config)
    assert vision == clip.ClipVisionConfig(patch=14)
    assert clip.text_from_original(config) == TEXT
    config["text_config_dict"] = {"hidden_act": "swish"}
    with pytest.raises(UserError, match="hidden_act = 'swish'"):
        clip.text_from_original(config)


@pytest.mark.parametrize(
    ("name", "projection", "parameters"),
    [
        ("clip-b32", 512, 151_277_313),
        ("clip-b16", 512, 149_620_737),
        ("clip-l14", 768, 427_616_513),
    ],
)
def test_size_of_the_published_model(name, projection, parameters):
    vision, text = clip.VISION_CONFIGS[name], clip.TEXT_CONFIGS[name]
    ours = parity.count_images(clip.ClipVision(vision))
    ours += parity.count_texts(clip.ClipText(text))
    # The whole model also has a norm of CLS, projections and a temperature.
    more = 2 * vision.width + (vision.width + text.width) * projection + 1
    assert ours + more == parameters
    config = _both(vision, text) | {"projection_dim": projection}
    assert parity.count_original(config) == parameters
