"""Simple features of images and texts, as seen by a simulated user."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.feature_extraction.text import HashingVectorizer

from mixer_jax.runtime.arrays import normalize
from mixer_jax.runtime.errors import UserError

_MAX_PIXELS = 200_000_000


def appearance(images: Sequence[Path], texts: Sequence[str]) -> np.ndarray:
    """Returns features for a user's first impression: a thumbnail and words.

    The features are independent of the encoders used to find the
    categories, so that the clicks do not favor these encoders.

    Returns:
      Features `[N, 768 + 512]` float32: a centered 16x16 RGB thumbnail and
      hashed words, each of unit length.

    Raises:
      UserError: if an image cannot be decoded; names the first such image.
    """
    thumbnails = np.stack([_thumbnail(path) for path in images])
    thumbnails -= thumbnails.mean(0, keepdims=True)
    words = HashingVectorizer(n_features=512).transform(texts).toarray()
    return np.concatenate(
        [normalize(thumbnails), words.astype(np.float32)], axis=1
    )


def _thumbnail(path: Path) -> np.ndarray:
    try:
        # Ignore the decoder's warnings; only its errors matter.
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(path) as image,
        ):
            if image.width * image.height > _MAX_PIXELS:
                raise ValueError("it has too many pixels")
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            white.alpha_composite(image)
            small = white.convert("RGB").resize((16, 16), Image.Resampling.BOX)
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises errors of any type.
        raise UserError(
            f"The image {path} cannot be decoded: {error}; repair it, or "
            "remove its rows from --table."
        ) from error
    return np.asarray(small, np.float32).reshape(-1)
