"""Random augmentation of training images to reduce overfitting.

By default, images are not mirrored, because mirroring changes the meaning of
text and logos.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from mixer_jax.data.images import background
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import did_you_mean


@dataclasses.dataclass(frozen=True)
class Strength:
    """Ranges and probabilities of the random changes."""

    scale: tuple[float, float]  # size relative to the frame; > 1 crops
    shift: float  # maximum share of the side, in each direction
    stretch: float  # maximum |log(width / height)|
    rotate: float  # maximum degrees, in each direction
    brightness: float  # x: the factor ranges from 1 - x to 1 + x
    contrast: float  # as for brightness
    saturation: float  # as for brightness
    hue: float  # maximum share of the color circle, in each direction
    jitter: float  # probability of any color change
    gray: float = 0.0  # probability, given that the color is changed
    blur: float = 0.0  # probability
    blur_radius: float = 0.0  # maximum, in pixels of a 128-pixel image
    erase: float = 0.0  # probability
    erase_area: float = 0.0  # maximum share of the image
    flip: float = 0.0  # probability
    background: float = 0.0  # probability, for pictures on white


STRENGTHS = {
    "light": Strength(
        scale=(0.85, 1.15),
        shift=0.05,
        stretch=0.05,
        rotate=5.0,
        brightness=0.15,
        contrast=0.15,
        saturation=0.15,
        hue=0.02,
        jitter=0.8,
    ),
    "strong": Strength(
        scale=(0.6, 1.3),
        shift=0.1,
        stretch=0.15,
        rotate=15.0,
        brightness=0.35,
        contrast=0.35,
        saturation=0.5,
        hue=0.08,
        jitter=0.9,
        gray=0.1,
        blur=0.15,
        blur_radius=1.5,
        erase=0.25,
        erase_area=0.15,
    ),
}
# For drawings and other images that keep their meaning when mirrored.
STRENGTHS["mirrored"] = dataclasses.replace(STRENGTHS["light"], flip=0.5)
# For catalogs with photos on white and queries on other backgrounds.
STRENGTHS["catalog"] = dataclasses.replace(STRENGTHS["strong"], background=0.5)
_SHARES = ("jitter", "gray", "blur", "erase", "erase_area", "flip")
_SHARES += ("background", "brightness", "contrast", "saturation")
NAMES = ("none", *STRENGTHS)
_TO_YIQ = np.array(
    [[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]]
)
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


def augment(
    image: np.ndarray, rng: np.random.Generator, strength: str | Strength
) -> np.ndarray:
    """Returns a randomly augmented image.

    Args:
      image: uint8 [S, S, 3], RGB on white.
      rng: the only source of randomness.
      strength: one of `NAMES`, or a `Strength`.

    Returns:
      uint8 [S, S, 3]; areas outside the original image are white.

    Raises:
      UserError: if the strength is unknown.
    """
    if strength == "none":
        return image
    how = get_strength(strength)
    size = image.shape[0]
    picture = _move(Image.fromarray(image), rng, how)
    # Draw a number only if needed, so that other strengths keep their results.
    if how.background and rng.random() < how.background:
        picture = Image.fromarray(background.replace(np.array(picture), rng))
    if rng.random() < how.blur:
        radius = rng.uniform(0.0, how.blur_radius) * size / 128
        picture = picture.filter(ImageFilter.GaussianBlur(radius))
    pixels = np.array(picture)
    if rng.random() < how.jitter:
        pixels = _color(pixels, rng, how)
    if rng.random() < how.erase:
        _erase(pixels, rng, how)
    return pixels


def get_strength(strength: str | Strength) -> Strength:
    """Looks up a strength by name; returns a `Strength` unchanged.

    Raises:
      UserError: if the name is unknown; lists the known names.
    """
    if isinstance(strength, Strength):
        return strength
    if strength not in STRENGTHS:
        raise UserError(
            f"data.augment is {strength!r}; it must be one of "
            f"{', '.join(NAMES)}."
        )
    return STRENGTHS[strength]


def change(
    strength: str | Strength, changes: Iterable[tuple[str, Any]]
) -> str | Strength:
    """Returns a strength with some of its fields changed.

    Args:
      strength: one of `NAMES`, or a `Strength`.
      changes: (field, value) pairs; must be empty for "none".

    Raises:
      UserError: if the strength or a field is unknown, a value is invalid, or
        there are changes to "none".
    """
    changes = tuple(changes)
    if not changes:
        return strength if strength == "none" else get_strength(strength)
    if strength == "none":
        raise UserError(
            "data.augment is 'none', so data.augment_changes must be empty."
        )
    strength = get_strength(strength)
    fields = dataclasses.asdict(strength)
    for pair in changes:
        if len(pair) != 2 or pair[0] not in fields:
            name = str(pair[0]) if pair else ""
            hint = did_you_mean(name, fields) or "."
            raise UserError(
                f"data.augment_changes contains {pair!r}; its entries must be "
                "(field, value) pairs; the fields are "
                f"{', '.join(fields)}{hint}"
            )
        name, value = pair
        fields[name] = _checked(name, value)
    return Strength(**fields)


def _checked(name: str, value: Any) -> Any:
    """Returns a field's value; raises a `UserError` if it is invalid."""
    if name == "scale":
        wanted = "two numbers above 0, the smaller first"
        right = (
            isinstance(value, tuple | list)
            and len(value) == 2
            and all(map(_is_number, value))
            and 0 < value[0] <= value[1]
        )
        value = tuple(value) if right else value
    elif name in _SHARES:
        wanted = "a number from 0 to 1"
        right = _is_number(value) and 0 <= value <= 1
    else:
        wanted = "a number, 0 or more"
        right = _is_number(value) and value >= 0
    if not right:
        raise UserError(
            f"data.augment_changes sets {name} to {value!r}; it must be "
            f"{wanted}."
        )
    return value


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


def _move(
    picture: Image.Image, rng: np.random.Generator, how: Strength
) -> Image.Image:
    """Scales, stretches, rotates, shifts and perhaps mirrors an image."""
    size = picture.width
    scale = np.exp(rng.uniform(*np.log(how.scale)))
    stretch = np.exp(rng.uniform(-how.stretch, how.stretch) / 2)
    angle = np.radians(rng.uniform(-how.rotate, how.rotate))
    shift = rng.uniform(-how.shift, how.shift, 2) * size
    mirror = -1.0 if rng.random() < how.flip else 1.0
    cos, sin = np.cos(angle), np.sin(angle)
    # PIL expects the output-to-input map; pixel centers are at half-integers.
    a, b = cos / (scale * stretch) * mirror, sin / (scale * stretch) * mirror
    d, e = -sin * stretch / scale, cos * stretch / scale
    center = size / 2
    x, y = center + shift[0], center + shift[1]
    matrix = (a, b, center - a * x - b * y, d, e, center - d * x - e * y)
    return picture.transform(
        picture.size,
        Image.Transform.AFFINE,
        matrix,
        Image.Resampling.BILINEAR,
        fillcolor=(255, 255, 255),
    )


def _color(
    pixels: np.ndarray, rng: np.random.Generator, how: Strength
) -> np.ndarray:
    """Changes hue, saturation, contrast and brightness with one matrix."""
    turn = rng.uniform(-how.hue, how.hue) * 2 * np.pi
    saturation, contrast, brightness = (
        rng.uniform(1 - limit, 1 + limit)
        for limit in (how.saturation, how.contrast, how.brightness)
    )
    chroma = 0.0 if rng.random() < how.gray else saturation
    cos, sin = chroma * np.cos(turn), chroma * np.sin(turn)
    # In YIQ, hue is an angle and saturation a radius; the luma is unchanged.
    change = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    matrix = contrast * brightness * (_FROM_YIQ @ change @ _TO_YIQ)
    # A sixteenth of the pixels suffices to estimate the mean.
    mean = (pixels[::4, ::4].mean((0, 1)) @ _TO_YIQ[0]).item()
    offset = brightness * (1 - contrast) * mean + 0.5
    changed = pixels.astype(np.float32) @ matrix.T.astype(np.float32)
    return np.clip(changed + np.float32(offset), 0, 255).astype(np.uint8)


def _erase(pixels: np.ndarray, rng: np.random.Generator, how: Strength) -> None:
    """Paints a rectangle of a random color into the image."""
    size = pixels.shape[0]
    area = rng.uniform(0.02, how.erase_area) * size * size
    ratio = np.exp(rng.uniform(-0.7, 0.7))
    height = int(np.clip(np.sqrt(area * ratio), 1, size))
    width = int(np.clip(np.sqrt(area / ratio), 1, size))
    top = rng.integers(size - height + 1)
    left = rng.integers(size - width + 1)
    color = rng.integers(0, 256, 3, dtype=np.uint8)
    pixels[top : top + height, left : left + width] = color
