"""Decoding and embedding of small batches."""

import numpy as np
import pytest

from mixer_jax.data.images import decoding
from mixer_jax.retrieval.model import Model
from mixer_jax.runtime.errors import UserError
from mixer_jax.service.batches.encoder import SIZE, Encoder, Query
from tests.service.conftest import PIXELS, draw


@pytest.fixture
def encoder(color_net):
    return Encoder(color_net, PIXELS)


def decode(color):
    return decoding.decode(draw(color), 8)


def test_both_towers_keep_the_order(encoder, color_net):
    pixels = [decode(color) for color in ("red", "lime", "blue")]
    queries = [
        Query(pixels[0]),
        Query(None, "a text"),
        Query(pixels[1], "a text"),
        Query(pixels[2], is_document=True),
        Query(pixels[1]),
    ]
    found = encoder.embed(queries)
    alone = color_net.embed_queries([draw("red"), draw("lime")])
    np.testing.assert_allclose(found[[0, 4]], alone, atol=1e-6)
    images = [None, draw("lime"), draw("blue")]
    documents = color_net.embed_documents(images, ["a text", "a text", ""])
    np.testing.assert_allclose(found[1:4], documents, atol=1e-6)


def test_nothing_is_compiled_after_the_start(encoder, color_net):
    encoder.compile()
    programs = color_net._encode.values()
    before = [program._cache_size() for program in programs]
    for count in range(1, SIZE + 1):
        encoder.embed([Query(decode("red"))] * count)
        encoder.embed([Query(None, "a text")] * count)
    assert [program._cache_size() for program in programs] == before


def test_texts_are_refused_if_the_model_ignores_them(color_net):
    deaf = Encoder(
        Model(color_net._trained, ignores_text="it has no text encoder"), PIXELS
    )
    deaf.check(True, "")
    with pytest.raises(UserError, match="no text encoder; send a picture"):
        deaf.check(False, "red")
    with pytest.raises(UserError, match="send the picture alone"):
        deaf.check(True, "red")


@pytest.mark.parametrize(
    ("content", "box", "message"),
    [
        (b"%PDF-1.7", "", "a PDF document; a PNG, JPEG"),
        (draw("red", "tiff"), "", "a TIFF picture; a PNG, JPEG"),
        (draw("red")[:-30], "", "cannot be read: it is truncated"),
        (draw("red"), "90,0,99,9", "a PNG picture, but .*does not overlap"),
        (draw("red", size=(9000, 9000)), "", "9000 x 9000 .*--max-megapixels"),
    ],
)
def test_messages_tell_why_a_picture_is_rejected(
    encoder, content, box, message
):
    with pytest.raises(UserError, match=message):
        encoder.decode(content, box)
