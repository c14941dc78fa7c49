"""Image and text encoders that match their published originals.

To add an encoder, write a module in this folder that defines

- a frozen dataclass of the encoder's sizes and, for an image encoder, the mean
  and standard deviation of its pixels (`mean`, `std`),
- `CONFIGS`, the published sizes by name,
- the Flax module, whose first field `config` is such a dataclass; it has
  whichever of the fields `batch_norm`, `dropout`, `drop_path`, `dtype` and
  `remat` apply to it, and `factory.make_model` sets them,
- `KEYS`, the names of the tensors in the original's files,
- `FAMILY`, if transformers has the original, so that it can be loaded with
  `config.model.image.pretrained` or `config.model.text.pretrained`.

Then add the encoder to the tables below and to `docs/encoders.md`, and test it
against its original with `tests/models/parity.py`. Weights that come with a
Python package need an entry in `weights.pretrained.SOURCES`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from flax import linen as nn

from mixer_jax.models.encoders import (
    bert,
    clip,
    efficientnet,
    resnet,
    siglip,
    swin,
    vit,
)


def _by_name(
    module: Callable[..., nn.Module], configs: Mapping[str, Any]
) -> dict[str, Callable[..., nn.Module]]:
    return {name: partial(module, config) for name, config in configs.items()}


# Keyed by `config.model.image.name` and `config.model.text.name`.
IMAGE_ENCODERS = {
    **_by_name(resnet.ResNet, resnet.CONFIGS),
    **_by_name(vit.ViT, vit.CONFIGS),
    **_by_name(swin.Swin, swin.CONFIGS),
    **_by_name(clip.ClipVision, clip.VISION_CONFIGS),
    **_by_name(siglip.SiglipVision, siglip.VISION_CONFIGS),
    **_by_name(efficientnet.EfficientNet, efficientnet.CONFIGS),
}
TEXT_ENCODERS = {
    **_by_name(bert.Bert, bert.CONFIGS),
    **_by_name(clip.ClipText, clip.TEXT_CONFIGS),
    **_by_name(siglip.SiglipText, siglip.TEXT_CONFIGS),
}

# Keyed by the `model_type` in the original config.json.
IMAGE_FAMILIES = {
    "clip": clip.VISION_FAMILY,
    "clip_vision_model": clip.VISION_FAMILY,
    "resnet": resnet.FAMILY,
    "siglip": siglip.VISION_FAMILY,
    "siglip_vision_model": siglip.VISION_FAMILY,
    "swin": swin.FAMILY,
    "vit": vit.FAMILY,
}
TEXT_FAMILIES = {
    "bert": bert.FAMILY,
    "clip": clip.TEXT_FAMILY,
    "clip_text_model": clip.TEXT_FAMILY,
    "roberta": bert.ROBERTA_FAMILY,
    "siglip": siglip.TEXT_FAMILY,
    "siglip_text_model": siglip.TEXT_FAMILY,
    "xlm-roberta": bert.ROBERTA_FAMILY,
}

# Keyed by the names of the encoders in the parameter tree.
ENCODERS = {"image_encoder": IMAGE_ENCODERS, "text_encoder": TEXT_ENCODERS}
FAMILIES = {"image_encoder": IMAGE_FAMILIES, "text_encoder": TEXT_FAMILIES}
