import numpy as np
import pytest
from PIL import Image

from mixer_jax.data.images import decoding
from mixer_jax.demo.furniture import pictures


@pytest.fixture
def queries(tmp_path):
    """All kinds of queries of one product."""
    for name, color in (("red", (255, 0, 0, 255)), ("blue", (0, 0, 255, 255))):
        Image.new("RGBA", (30, 40), color).save(tmp_path / f"{name}.png")
    return [
        pictures.Query(
            "shop/bed",
            number,
            tmp_path / "red.png",
            tmp_path / "blue.png" if number in (2, 4) else None,
            tmp_path / f"images/{number}.jpg",
            64,
        )
        for number in range(5)
    ]


def compose(queries):
    return len(list(pictures.compose(queries)))


def test_queries_are_written_as_photographs(queries):
    assert compose(queries) == 5
    for query in queries:
        with Image.open(query.path) as image:
            assert (image.format, image.size) == ("JPEG", (64, 64))
            pixels = np.asarray(image).astype(int)
        red = (pixels[..., 0] - pixels[..., 2] > 120).mean()
        blue = (pixels[..., 2] - pixels[..., 0] > 120).mean()
        assert red > 0.1
        assert (blue > 0.02) == (query.other is not None)


def test_intact_queries_are_kept(queries):
    compose(queries)
    content = queries[2].path.read_bytes()
    queries[2].path.write_bytes(content[:300])
    before = [query.path.stat().st_mtime_ns for query in queries]
    compose(queries)
    changed = [
        query.path.stat().st_mtime_ns != time
        for query, time in zip(queries, before, strict=True)
    ]
    assert changed == [False, False, True, False, False]
    assert queries[2].path.read_bytes() == content


def test_processes_write_the_same_pictures(queries, tmp_path, monkeypatch):
    compose(queries)
    monkeypatch.setattr(pictures, "_FEW", 0)
    monkeypatch.setattr(pictures, "_CHUNK", 2)
    there = [
        query._replace(path=tmp_path / f"there/{query.number}.jpg")
        for query in queries
    ]
    assert compose(there) == 5
    for one, two in zip(queries, there, strict=True):
        assert one.path.read_bytes() == two.path.read_bytes()


def test_neighbor_is_another_product_drawn_by_hash():
    keys = [f"shop/{k}" for k in range(30)]
    chosen = [pictures.neighbor("shop/3", number, keys) for number in range(20)]
    assert len(set(chosen)) > 10
    assert "shop/3" not in chosen
    # The order does not matter, and other products hardly do.
    assert pictures.neighbor("shop/3", 0, keys[::-1]) == chosen[0]
    fewer = [key for key in keys if key not in chosen[1:]] + [chosen[0]]
    assert pictures.neighbor("shop/3", 0, fewer) == chosen[0]
    assert pictures.neighbor("shop/3", 0, ["shop/3"]) is None


def test_documents_are_scaled_to_squares_on_white(tmp_path):
    path = tmp_path / "new" / "a.png"
    picture = Image.new("RGBA", (10, 20), (0, 0, 0, 0))
    picture.paste((0, 0, 255, 255), (0, 10, 10, 20))
    picture.save(tmp_path / "source.png")
    content = (tmp_path / "source.png").read_bytes()
    pictures.write_document(content, path, 64)
    with Image.open(path) as image:
        assert image.size == (64, 64)
        assert image.convert("RGB").getpixel((32, 10)) == (255, 255, 255)
        assert image.convert("RGB").getpixel((32, 55)) == (0, 0, 255)
    before = path.stat().st_mtime_ns
    pictures.write_document(content, path, 64)
    assert path.stat().st_mtime_ns == before
    with pytest.raises(decoding.UnreadableImageError):
        pictures.write_document(b"no picture", tmp_path / "b.png", 64)
    assert not (tmp_path / "b.png").exists()
