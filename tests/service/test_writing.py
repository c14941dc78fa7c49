import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mixer_jax.runtime.errors import UserError
from mixer_jax.service import writing
from mixer_jax.service.sources import COLUMNS, Chunk, Source
from tests.service.stores import items


@pytest.fixture
def source(tmp_path):
    """Rows with embeddings; the image of the last one is missing."""
    (tmp_path / "data").mkdir()
    Image.new("RGB", (4, 4), "red").save(tmp_path / "data" / "a.png")
    frame = pd.DataFrame(
        {
            "sample_id": ["a", "b", "c"],
            "item_id": ["a", "b", "b"],
            "image": ["a.png", "", "gone.png"],
            "text": ["first", "", "third"],
        }
    ).reindex(columns=COLUMNS, fill_value="")
    path = tmp_path / "data" / "t.csv"
    return Source(path, path.parent, 3, "", {}, 4, frame=frame, embeddings="e")


def write(folder, source, root, **properties):
    store = items.make(folder, fields={}, **properties)
    writer = writing.Writer(store, source, None, root=root, batch_size=8)
    chunk = Chunk(source.frame, np.eye(4, dtype=np.float32)[:3])
    with store:
        done = writer.write(chunk)
        return done, writer.write(chunk), store.get(["a", "b"])


def test_rows_with_embeddings_are_written_once(source, tmp_path):
    done, again, (a, b) = write(tmp_path / "i", source, source.folder)
    assert (done.count, again.count) == (3, 0)
    assert (a.text, b.text) == ("first", "third")
    assert [one.image for one in b.vectors] == ["", "gone.png"]


def test_thumbnails_are_made_of_readable_pictures(source, tmp_path):
    _, _, (a, b) = write(tmp_path / "i", source, source.folder, thumbnails=8)
    assert a.vectors[0].thumbnail
    assert [one.thumbnail for one in b.vectors] == [b"", b""]


def test_names_are_relative_to_the_image_folder(source, tmp_path):
    _, _, (a, _) = write(tmp_path / "above", source, tmp_path)
    assert a.vectors[0].image == "data/a.png"
    _, _, (a, _) = write(tmp_path / "none", source, None)
    assert a.vectors[0].image == ""
    with pytest.raises(UserError, match=r"'a\.png' .* is outside the image fo"):
        write(tmp_path / "other", source, tmp_path / "else")


def test_the_common_root_holds_absolute_images_too(source, tmp_path):
    assert writing.common_root(source) == str(source.folder)
    source.frame.loc[1, "image"] = str(tmp_path / "more" / "b.png")
    assert writing.common_root(source) == str(tmp_path)
