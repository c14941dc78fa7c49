"""Reads the materials of 3-D models in MTL format."""

import io
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image

_LARGEST = 1024  # longer side of a texture in pixels


class Material(NamedTuple):
    """The appearance of a part of a model.

    Attributes:
      color: diffuse color, from 0 to 1 per channel.
      specular: strength of the highlights, from 0 to 1.
      shininess: exponent of the highlights.
      opacity: 1 is opaque.
      texture: RGBA, uint8 [H, W, 4]; None for none.
    """

    color: tuple[float, float, float] = (0.8, 0.8, 0.8)
    specular: float = 0.0
    shininess: float = 10.0
    opacity: float = 1.0
    texture: np.ndarray | None = None


def read(text: str, contents: Mapping[str, bytes]) -> dict[str, Material]:
    """Returns the materials of an MTL file by name.

    Textures that are missing or damaged are left out.

    Args:
      text: the content of the file.
      contents: the files next to it by name, with the textures.

    Raises:
      ValueError: if a number is invalid.
    """
    files = {name.lower(): content for name, content in contents.items()}
    found: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        command, _, value = line.strip().partition(" ")
        value = value.strip()
        if command == "newmtl":
            fields = found[value] = {}
        elif found:
            fields[command] = value
    return {name: _material(fields, files) for name, fields in found.items()}


def _material(
    fields: Mapping[str, str], files: Mapping[str, bytes]
) -> Material:
    plain = Material()
    red, green, blue = _numbers(fields, "Kd", plain.color)
    highlight = _numbers(fields, "Ks", 3 * (plain.specular,))
    (shininess,) = _numbers(fields, "Ns", (plain.shininess,))
    (opacity,) = _numbers(fields, "d", (plain.opacity,))
    return Material(
        color=(red, green, blue),
        specular=sum(highlight) / 3,
        shininess=shininess,
        opacity=opacity,
        texture=_texture(fields, files),
    )


def _numbers(
    fields: Mapping[str, str], name: str, default: tuple[float, ...]
) -> list[float]:
    if name not in fields:
        return list(default)
    found = [float(word) for word in fields[name].split()]
    if len(found) != len(default):
        raise ValueError(f"{name} has {len(found)} numbers")
    return found


def _texture(
    fields: Mapping[str, str], files: Mapping[str, bytes]
) -> np.ndarray | None:
    picture = _picture(fields.get("map_Kd", ""), files)
    if picture is None:
        return None
    picture = picture.convert("RGBA")
    mask = _picture(fields.get("map_d", ""), files)
    if mask is not None:
        band = "A" if "A" in mask.getbands() else "L"
        mask = mask.getchannel("A") if band == "A" else mask.convert("L")
        picture.putalpha(mask.resize(picture.size))
    return np.asarray(picture)


def _picture(path: str, files: Mapping[str, bytes]) -> Image.Image | None:
    """Returns a texture; only the last part of the path counts.

    Some paths are those of the author's machine.
    """
    content = files.get(re.split(r"[/\\]", path)[-1].lower())
    if content is None:
        return None
    try:
        picture = Image.open(io.BytesIO(content))
        picture.load()
    except (OSError, SyntaxError):  # Pillow's error for damaged PNG files
        return None
    if picture.mode == "P":
        picture = picture.convert("RGBA")
    picture.thumbnail((_LARGEST, _LARGEST))
    return picture
