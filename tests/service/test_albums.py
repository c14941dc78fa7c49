"""Folders of pictures as sources of an index."""

import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.service import albums
from tests.service.conftest import draw


@pytest.fixture
def folder(tmp_path):
    for name in ("hat.png", "shoes/red.JPG", "shoes/low/blue.webp"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw("red"))
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / ".hidden.png").write_bytes(draw("red"))
    return tmp_path


def test_every_picture_is_an_item(folder):
    source = albums.open_source(folder)
    (chunk,) = source.chunks()
    assert chunk.embeddings is None
    rows = chunk.frame
    assert list(rows["item_id"]) == [
        "hat.png",
        "shoes/red.JPG",
        "shoes/low/blue.webp",
    ]
    assert list(rows["image"]) == list(rows["sample_id"])
    assert list(rows["category_id"]) == ["", "shoes", "shoes/low"]
    assert set(rows["text"]) == {""}
    assert source.total == 3
    (folder / "hat.png").unlink()
    assert albums.open_source(folder).key != source.key


def test_a_folder_without_pictures_is_refused(folder, tmp_path):
    for path in folder.rglob("*.*"):
        if path.is_file() and path.suffix != ".txt":
            path.unlink()
    with pytest.raises(UserError, match=r"images \(1\)"):
        albums.open_source(folder)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        albums.open_source(tmp_path / "none")


def test_ids_are_paths_in_the_folder_of_the_index(folder, tmp_path):
    """Otherwise, adding a subfolder would replace items of other folders."""
    source = albums.open_source(folder / "shoes", folder)
    assert list(source.frame["item_id"]) == [
        "shoes/red.JPG",
        "shoes/low/blue.webp",
    ]
    assert list(source.frame["category_id"]) == ["shoes", "shoes/low"]
    assert source.folder == folder
    other = tmp_path / "other"
    other.mkdir()
    (other / "hat.png").write_bytes(draw("blue"))
    with pytest.raises(UserError, match=r"is outside .* list its pictures"):
        albums.open_source(other, folder / "shoes")
