"""How the views of a product are shot: camera, light and kind of picture.

Everything is drawn from a hash of the product's key and the view's number, so
that it does not depend on the other products or on the order of the work.
"""

import colorsys
from typing import NamedTuple

import numpy as np

from mixer_jax.data.tables.holdout import digest
from mixer_jax.demo.furniture.catalog import Product

# A product alone, behind something, and next to another product.
PLAIN, HIDDEN, MOSAIC = KINDS = ("plain", "hidden", "mosaic")
_ORDER = (PLAIN, HIDDEN, MOSAIC, PLAIN, MOSAIC)
_TURN = 75.0  # maximum azimuth in degrees; backs of furniture look alike
_TURN_THIN = 50.0  # the same for doors and pictures, which have no sides
_RISE, _RISE_FLAT = (5.0, 40.0), (35.0, 70.0)  # elevation in degrees
_THIN = 0.1  # share of the larger sides below which a product is flat or thin


class Shot(NamedTuple):
    """Camera and light of a view; angles are in degrees.

    Attributes:
      azimuth: direction of the camera; 0 is in front of the product.
      elevation: height of the camera above the horizon.
      light_azimuth: direction of the key light, like `azimuth`.
      light_elevation: height of the key light above the horizon.
      light: color of the key light, from 0 to 1 per channel.
      fill: strength of the light from the camera, from 0 to 1.
    """

    azimuth: float
    elevation: float
    light_azimuth: float
    light_elevation: float
    light: tuple[float, float, float]
    fill: float


def kind(number: int) -> str:
    """Returns the kind of the picture with a number."""
    return _ORDER[number % len(_ORDER)]


def generator(purpose: str, key: str, number: int) -> np.random.Generator:
    """Returns a source of randomness for one view of a product."""
    return np.random.default_rng(digest(purpose, key, str(number)))


def draw(product: Product, number: int) -> Shot:
    """Draws camera and light of a product's view."""
    rng = generator("shot", product.key, number)
    width, height, depth = product.size
    turn, rise = _TURN, _RISE
    if height < _THIN * max(width, depth):
        rise = _RISE_FLAT  # carpets are invisible from the side
    elif depth < _THIN * max(width, height):
        turn = _TURN_THIN
    azimuth = rng.uniform(-turn, turn)
    # From blue daylight to yellow lamps.
    hue = rng.choice((0.09, 0.6))
    light = colorsys.hsv_to_rgb(hue, rng.uniform(0, 0.25), 1.0)
    return Shot(
        azimuth=float(azimuth),
        elevation=float(rng.uniform(*rise)),
        # The light comes from the camera's side, else products are black.
        light_azimuth=float(azimuth + rng.uniform(-70, 70)),
        light_elevation=float(rng.uniform(15, 70)),
        light=light,
        fill=float(rng.uniform(0.25, 0.6)),
    )
