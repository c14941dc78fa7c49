"""Contact sheets mark right and wrong documents."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from mixer_jax.data.tables import table
from mixer_jax.reports import sheets
from mixer_jax.runtime.mesh import make_mesh


def embed_by_color(wrong=()):
    """Embeds each category on its own axis, but samples in `wrong` as green."""
    names = ["blue", "green", "gray", "red", "white", "yellow"]

    def embed(frame):
        seen = frame.category_id.where(~frame.sample_id.isin(wrong), "green")
        return np.eye(6, dtype=np.float32)[[names.index(n) for n in seen]]

    return embed


@pytest.fixture
def rankings(colors):
    root, frame = colors
    embed = embed_by_color(wrong=["red_query_forward"])
    return sheets.rank_parts(embed, frame, root, "test", make_mesh())


def test_sheets_mark_right_and_wrong_documents(colors, rankings):
    root, _ = colors
    right, wrong, worst = sheets.make_sheets(rankings, root)
    assert (len(right.strips), len(wrong.strips)) == (7, 1)
    assert all(strip.right for strip in right.strips)
    assert [hit.right for hit in right.strips[0].hits].count(True) == 1
    assert (right.note, wrong.note) == ("all 7", "all 1")
    (strip,) = wrong.strips
    assert (strip.name, strip.part) == ("red paint", "forward")
    assert (strip.hits[0].name, strip.hits[0].right) == ("green paint", False)
    assert strip.hits[strip.position - 1].right
    assert strip.position > 1
    assert strip.documents == 4
    assert worst.strips == wrong.strips


def test_only_one_sheet_if_nothing_is_wrong(colors):
    root, frame = colors
    ranked = sheets.rank_parts(
        embed_by_color(), frame, root, "test", make_mesh()
    )
    (right,) = sheets.make_sheets(ranked, root, count=3)
    assert len(right.strips) == 3
    assert right.note == "3 of 8, drawn at random"


def test_queries_without_right_document_are_left_out(colors):
    root, frame = colors
    lone = frame.sample_id == "red_document_forward"
    ranked = sheets.rank_parts(
        embed_by_color(), frame[~lone], root, "test", make_mesh()
    )
    assert [len(r.queries) for r in ranked] == [3, 4]


def test_document_without_image(colors):
    root, frame = colors
    frame.loc[frame.role == table.DOCUMENT, "image"] = ""
    ranked = sheets.rank_parts(
        embed_by_color(), frame, root, "test", make_mesh()
    )
    strip = sheets.make_strip(ranked[0], 0, root)
    assert strip.hits[0].image == ""
    assert strip.right


def test_thumbnails_are_small_images(colors):
    root, _ = colors
    uri = sheets.thumbnail(root / "red_query_forward.png", 24)
    kind, code = uri.split(",")
    assert kind == "data:image/webp;base64"
    image = Image.open(io.BytesIO(base64.b64decode(code)))
    assert image.size == (24, 24)
    assert np.asarray(image)[..., 0].mean() > 200


def test_category_samples_start_with_the_largest_category(colors):
    root, frame = colors
    frame.loc[frame.category_id == "blue", "category_id"] = "red"
    (first, *others) = sheets.category_samples(frame, root, count=4, shown=3)
    assert first[:2] == ("red paint", 8)
    assert len(first[2]) == 3
    assert len(others) == 3
