import io

import numpy as np
import pytest
from PIL import Image

from mixer_jax.demo.furniture.models import materials


def picture(color, mode="RGB", kind="png", side=4):
    content = io.BytesIO()
    Image.new(mode, (side, side), color).save(content, kind)
    return content.getvalue()


def test_material_has_its_fields():
    text = (
        "# Kd 0 0 0\nKd 0 0 1\n\tnewmtl 1\r\n  Kd 1 0 0.5\nKe 1 1 1\n\n"
        "Ks 0.3 0.6 0.9\nnewmtl dark  wood\nd 0.5\nsharpness 60\nNs 96\n"
        "newmtl\n"
    )
    found = materials.read(text, {})
    assert found["1"] == materials.Material(
        color=(1, 0, 0.5), specular=pytest.approx(0.6)
    )
    assert found["dark  wood"] == materials.Material(opacity=0.5, shininess=96)
    assert found[""] == materials.Material()


def test_textures_are_found_by_the_last_part_of_their_path():
    files = {
        "Oak 1.jpg": picture((10, 20, 30), kind="jpeg"),
        "iron.PNG": picture((40, 50, 60)),
        "damaged.png": picture((1, 2, 3))[:50],
    }
    text = (
        "newmtl a\nKd 0.4 0.4 0.4\nmap_Kd C:\\My Pictures\\Oak 1.JPG\n"
        "newmtl b\nmap_Kd /home/me/Iron.png\n"
        "newmtl c\nmap_Kd missing.png\nnewmtl d\nmap_Kd damaged.png\n"
    )
    found = materials.read(text, files)
    texture = found["a"].texture
    assert texture.shape == (4, 4, 4)
    assert np.abs(texture[0, 0].astype(int) - (10, 20, 30, 255)).max() < 4
    assert found["a"].color == (0.4, 0.4, 0.4)
    assert found["b"].texture[0, 0].tolist() == [40, 50, 60, 255]
    assert found["c"].texture is None
    assert found["d"].texture is None


def test_textures_keep_their_transparency():
    files = {
        "leaf.png": picture((9, 9, 9, 77), "RGBA"),
        "palette.png": picture(3, "P"),
        "leaf.jpg": picture((9, 9, 9), kind="jpeg", side=8),
        "mask.png": picture(40, "L"),
        "clear.png": picture((0, 0, 0, 50), "RGBA"),
    }
    text = (
        "newmtl a\nmap_Kd leaf.png\nnewmtl b\nmap_Kd leaf.jpg\nmap_d mask.png\n"
        "newmtl c\nmap_Kd leaf.jpg\nmap_d clear.png\n"
        "newmtl d\nmap_Kd palette.png\n"
    )
    found = materials.read(text, files)
    alphas = [found[name].texture[0, 0, 3] for name in "abcd"]
    assert alphas == [77, 40, 50, 255]
    assert found["b"].texture.shape == (8, 8, 4)


def test_large_textures_are_reduced():
    files = {"a.png": picture((1, 2, 3), side=1500)}
    found = materials.read("newmtl a\nmap_Kd a.png\n", files)
    assert found["a"].texture.shape == (1024, 1024, 4)


def test_invalid_number_is_reported():
    with pytest.raises(ValueError, match="could not convert"):
        materials.read("newmtl a\nKd 1 x 1\n", {})
