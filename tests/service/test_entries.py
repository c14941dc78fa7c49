import io

import numpy as np
import pytest
from PIL import Image

from mixer_jax.data.images import decoding
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import references
from mixer_jax.service import entries


@pytest.fixture
def path(tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (20, 10), "red").save(tmp_path / "in" / "a.png")
    return tmp_path / "in" / "a.png"


def load(root, side, *images, known=(), **more):
    (entry,) = entries.align(["x"], images=[list(images)], **more)
    return entries.Loader(root, side).load(entry, known)


def test_names_are_relative_to_the_root(path, tmp_path):
    boxed = f"{path}{references.box_suffix(0, 0, 5, 5)}"
    for root, given, name in (
        (tmp_path, path, "in/a.png"),
        (path.parent, path, "a.png"),
        (path.parent, boxed, "a.png#box=0,0,5,5"),
        (tmp_path / "i", path, ""),
        (None, path, ""),
    ):
        assert load(root, 0, given).item.vectors[0].image == name


def test_contents_depend_on_bytes_and_text_alone(path, tmp_path):
    def content(image, text="t"):
        loaded = load(None, 0, image, texts=[text])
        return loaded.item.vectors[0].content

    assert content(path) == content(path.read_bytes())
    assert content(path) != content(path, "u")
    image = Image.open(path)
    assert content(image) == content(np.asarray(image))
    assert content(image) != content(image.rotate(90, expand=True))
    image.close()


def test_known_pictures_are_not_embedded_or_copied_again(path):
    first = load(None, 8, path)
    assert first.is_new == [True]
    thumbnail = first.item.vectors[0].thumbnail
    assert Image.open(io.BytesIO(thumbnail)).size == (8, 8)
    assert decoding.decode(thumbnail, 8)[4, 4, 0] > 200
    again = load(None, 8, path, known={first.item.vectors[0].content})
    assert again.is_new == [False]
    assert again.item.vectors[0].thumbnail == b""


def test_embeddings_are_assigned_in_order():
    given = entries.align(
        ["a", "b", "c"],
        images=[[b"1", b"2"], None, [b"3"]],
        texts=["x", "y", "z"],
    )
    loader = entries.Loader(None, 0)
    contents = [v.content for v in loader.load(given[0], ()).item.vectors]
    loaded = [
        loader.load(given[0], {contents[0]}),
        *(loader.load(one, ()) for one in given[1:]),
    ]
    asked = []

    def embed(images, texts):
        asked.extend(zip(images, texts, strict=True))
        return np.arange(len(texts), dtype=np.float32)[:, None]

    items = entries.make_items(loaded, embed)
    assert asked == [(b"2", "x"), (None, "y"), (b"3", "z")]
    found = [v.embedding for item in items for v in item.vectors]
    assert found == [None, 0, 1, 2]


def test_kinds_are_those_of_the_values():
    values = [{"a": 1, "b": None}, None, {"b": True, "c": "x", "d": []}]
    given = entries.align(["x", "y", "z"], texts=["t"] * 3, fields=values)
    assert entries.kinds(given) == {"a": "number", "b": "flag", "c": "text"}


def test_errors_name_the_item(tmp_path):
    with pytest.raises(UserError, match=r"Item 'x': .*no\.png"):
        load(None, 0, tmp_path / "no.png")
