import io
import pathlib

import pytest
from PIL import Image
from starlette.exceptions import HTTPException

from mixer_jax.data.tables import table
from mixer_jax.service.http import pictures
from tests import inline_images


def draw(kind):
    content = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(content, kind)
    return content.getvalue()


@pytest.fixture
def names(colors, tmp_path):
    """Names of pictures in a Parquet file; the second is not a picture."""
    root, frame = colors
    (root / frame["image"].iloc[1]).write_bytes(b"%PDF-1.4\n\0")
    path = inline_images.write(frame, root, tmp_path / "in" / "t.parquet")
    return path.parent, table.read_table(path)["image"].tolist()


def test_pictures_in_a_table_are_sent(names, colors):
    folder, (first, *_) = names
    root, frame = colors
    response = pictures.respond(folder / first, b"", "a")
    assert response.body == (root / frame["image"].iloc[0]).read_bytes()
    assert response.media_type == "image/png"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_files_are_sent(tmp_path):
    (tmp_path / "a").write_bytes(draw("webp"))
    response = pictures.respond(tmp_path / "a", b"copy", "a")
    assert pathlib.Path(response.path) == tmp_path / "a"
    assert response.media_type == "image/webp"


def test_a_thumbnail_replaces_a_missing_picture(tmp_path):
    for path in (None, tmp_path / "gone.png", tmp_path / ("a" * 300)):
        response = pictures.respond(path, b"copy", "a")
        assert response.body == b"copy"
        assert response.media_type == "image/webp"


def test_anything_else_is_refused(names, tmp_path):
    folder, (_, other, third, *_) = names
    (tmp_path / "a.png").write_bytes(b"<svg></svg>")
    file, _ = third.split("#")
    for path, status, message in (
        (folder / other, 404, "is not a picture"),
        (folder / third.replace("#3@", "#99@"), 500, "there is no row 99"),
        (tmp_path / third, 404, "is missing"),
        (tmp_path / "a.png", 404, "is not a picture"),
        (tmp_path / "b.png", 404, "--images=FOLDER"),
        (tmp_path / "a.png/b", 404, "is missing"),
        (folder / file, 404, "is not a picture"),
        (None, 404, "The picture of item 'one' is missing"),
    ):
        with pytest.raises(HTTPException, match=message) as caught:
            pictures.respond(path, b"", "one")
        assert caught.value.status_code == status
        assert "item 'one'" in caught.value.detail
