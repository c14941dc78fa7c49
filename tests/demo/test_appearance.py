import pytest
from PIL import Image

from mixer_jax.demo.appearance import appearance
from mixer_jax.runtime.errors import UserError


def _truncated(path):
    Image.effect_noise((64, 64), 90).save(path)
    path.write_bytes(path.read_bytes()[:300])


def _too_large(path):
    Image.new("1", (20_000, 20_000)).save(path)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_bytes(b"text"),
        lambda path: path.mkdir(),
        lambda path: None,
        _truncated,
        _too_large,
    ],
)
def test_images_that_cannot_be_decoded_are_named(tmp_path, make):
    path = tmp_path / "a.png"
    make(path)
    with pytest.raises(UserError, match=r"a\.png cannot be decoded"):
        appearance([path], [""])


def test_features_have_unit_length(tmp_path):
    Image.effect_noise((64, 64), 90).save(tmp_path / "a.png")
    Image.effect_noise((9, 30), 90).save(tmp_path / "b.png")
    rows = appearance([tmp_path / "a.png", tmp_path / "b.png"], ["a bag", ""])
    assert rows.shape == (2, 16 * 16 * 3 + 512)
    assert (rows[:, :768] ** 2).sum(1) == pytest.approx([1, 1])
    assert (rows[:, 768:] ** 2).sum(1) == pytest.approx([1, 0])
