import io

import numpy as np
import pytest
from PIL import Image

from mixer_jax.data.images import crops, decoding, faults, memory
from mixer_jax.data.images.faults import UnreadableImageError

ORIENTATION = 0x0112


def draw(width, height):
    """Returns a smooth picture in which every position has its own color."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    pixels = [x * 250 / width, y * 250 / height, (x + y) % 200]
    pixels[2] = np.full_like(pixels[0], 90)
    return Image.fromarray(np.stack(pixels, 2).astype(np.uint8))


def encode(image, kind="png", **settings):
    content = io.BytesIO()
    image.save(content, kind, **settings)
    return content.getvalue()


def test_a_box_travels_with_the_bytes():
    content = encode(draw(4, 4))
    boxed = crops.attach(content, "1,2,3,4")
    assert boxed != content
    assert crops.detach(boxed) == (content, "1,2,3,4")
    assert crops.attach(content, "") is content
    assert crops.detach(content) == (content, "")


@pytest.mark.parametrize("kind", ["png", "webp", "bmp", "tiff", "gif"])
def test_the_box_is_cut_out(kind):
    image = draw(60, 40)
    settings = {"lossless": True} if kind == "webp" else {}
    content = encode(image, kind, **settings)
    cut = Image.open(io.BytesIO(content)).convert("RGB").crop((10, 5, 50, 25))
    wanted = decoding.decode(encode(cut), 32)
    found = decoding.decode(crops.attach(content, "10,5,50,25"), 32)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_boxes_refer_to_the_upright_image(orientation, kind):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    settings = {"quality": 95} if kind == "jpeg" else {}
    content = encode(draw(640, 400), kind, exif=exif, **settings)
    upright = decoding.ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert upright.size == ((400, 640) if orientation > 4 else (640, 400))
    box = (100, 200, 300, 380)
    wanted = decoding.decode(encode(upright.convert("RGB").crop(box)), 32)
    found = decoding.decode(crops.attach(content, "100,200,300,380"), 32)
    # A JPEG is decoded at a smaller scale.
    limit = 12 if kind == "jpeg" else 0
    assert np.abs(found.astype(int) - wanted).max() <= limit


def test_a_jpeg_is_decoded_no_smaller_than_the_box_needs(monkeypatch):
    sizes = []
    apply = crops.Crop.apply

    def spy(crop, image, turned):
        sizes.append(image.size)
        return apply(crop, image, turned)

    monkeypatch.setattr(crops.Crop, "apply", spy)
    content = encode(draw(1600, 800), "jpeg")
    for box in ("", "0,0,1600,800", "0,0,400,400", "0,0,128,64", "0,0,99,9"):
        decoding.decode(crops.attach(content, box), 100)
    scales = [1600 / width for width, _ in sizes]
    assert scales == [8, 8, 4, 1, 1]


def test_boxes_are_clipped_to_the_image():
    content = encode(draw(60, 40))
    found = decoding.decode(crops.attach(content, "30,10,99999,88888"), 30)
    wanted = decoding.decode(crops.attach(content, "30,10,60,40"), 30)
    np.testing.assert_array_equal(found, wanted)
    tiny = decoding.decode(crops.attach(content, "59,39,60,40"), 8)
    assert tiny.shape == (8, 8, 3)


@pytest.mark.parametrize("box", ["60,0,70,40", "0,40,60,50"])
def test_a_box_beside_the_image_is_a_fault(tmp_path, box):
    path = tmp_path / "a.png"
    path.write_bytes(encode(draw(60, 40)))
    with pytest.raises(UnreadableImageError) as caught:
        decoding.decode(f"{path}#box={box}", 8)
    assert caught.value.kind == faults.NO_AREA
    message = f"{path}, box ({box.replace(',', ', ')}): the crop box"
    assert str(caught.value).startswith(message)
    assert "the image of 60 x 40 pixels" in str(caught.value)


def test_memory_for_the_cut_is_reserved(monkeypatch):
    amounts = []
    reserve = memory.BUDGET.reserve
    monkeypatch.setattr(
        memory.BUDGET, "reserve", lambda n: amounts.append(n) or reserve(n)
    )
    content = encode(draw(600, 400))
    decoding.decode(content, 8)
    decoding.decode(crops.attach(content, "0,0,9,9"), 8)
    assert amounts[1] - amounts[0] >= 3 * 600 * 400


def test_files_keep_their_bytes(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode(draw(60, 40)))
    content = decoding.read(f"{path}#box=1,2,3,4")
    assert crops.detach(content) == (path.read_bytes(), "1,2,3,4")
    names = [str(path), f"{path}#box=1,2,3,4", f"{path}#box=1,2,3,5"]
    assert len({decoding.digest(name) for name in names}) == 3
