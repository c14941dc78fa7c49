"""Zero-shot models from published encoders."""

import os

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mixer_jax.models import factory, zero_shot
from mixer_jax.models.weights import originals
from mixer_jax.retrieval.model import Model
from mixer_jax.training.checkpoint.checkpoints import Trained
from mixer_jax.training.config import defaults as config_lib

_DEFAULT_SIZE = 224  # pixels, for encoders without a fixed size
_DEFAULT_LENGTH = 64  # tokens


def from_encoders(
    image: str | os.PathLike = "efficientnet-lite0",
    text: str | os.PathLike | None = None,
    *,
    image_size: int | None = None,
    text_length: int | None = None,
    mesh: Mesh | None = None,
) -> Model:
    """Returns a zero-shot model built from published encoders.

    If `image` and `text` are the same CLIP model, its projections map images
    and texts into a common space. Other encoders have no common space: the
    model then embeds images only, as the mean of their patches, and
    `ignores_text` gives the reason.

    Args:
      image: a name of `models.weights.pretrained`, a folder in the layout of
        transformers, or a name on the Hugging Face hub.
      text: a name or folder, as for `image`; None to embed images only.
      image_size: S, the side length of scaled images, in pixels; by default
        the encoder's training resolution, or 224.
      text_length: the maximum number of tokens; longer texts are truncated;
        by default the maximum of CLIP's text encoder, usually 77.
      mesh: the devices to use; by default all.

    Raises:
      UserError: if weights are missing, unknown or incompatible.
    """
    image, text = os.fspath(image), os.fspath(text or "")
    config = config_lib.defaults()
    config.name, config.precision = "zero-shot", "float32"
    model = config.model
    model.image.pretrained = model.image.name = image
    aligned = _is_clip(image) and image == text
    model.fusion = zero_shot.CLIP if aligned else zero_shot.MEAN_PATCHES
    if aligned:
        model.text.pretrained = model.text.name = text
    elif text and not originals.is_original(text):
        factory.pretrained_text_encoder(text)  # raises if `text` is unknown
    factory.resolve(config)
    module = _make(config, image_size, text_length)
    variables = zero_shot.load_variables(
        module, model, config.data.image_size, config.data.text_length
    )
    trained = Trained(config, module, variables, category_ids=[], step=0)
    return Model(trained, mesh, ignores_text=_reason(image, text, aligned))


def _make(config, image_size: int | None, text_length: int | None):
    """Returns the module, and sets the sizes in `config`."""
    model, data = config.model, config.data
    encoder = factory.make_encoder("image_encoder", model.image.name)
    trained_size = getattr(encoder.config, "image_size", _DEFAULT_SIZE)
    data.image_size = image_size or trained_size
    data.text_length = text_length or _DEFAULT_LENGTH
    if model.fusion == zero_shot.CLIP:
        projections = originals.read_config(model.image.pretrained)
        model.dim = projections.get("projection_dim", 512)
        if not text_length:
            words = factory.make_encoder("text_encoder", model.text.name)
            data.text_length = words.config.positions
    else:
        pixels = jax.ShapeDtypeStruct(
            (1, data.image_size, data.image_size, 3), jnp.uint8
        )
        patches, _ = jax.eval_shape(
            encoder.init_with_output, jax.random.key(0), pixels
        )
        model.dim = patches.shape[-1]
    return zero_shot.make_model(model)


def _is_clip(name: str) -> bool:
    if not originals.is_original(name):
        return False
    return originals.read_config(name).get("model_type") == "clip"


def _reason(image: str, text: str, aligned: bool) -> str:
    if aligned:
        return ""
    if not text:
        return "no text encoder was given"
    return (
        f"{image} and {text} were not trained together, so their "
        "embeddings have no common space"
    )
