import numpy as np
import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.service import queries


class Model:
    """A model whose embeddings are its inputs."""

    ignores_text = ""
    image_size = 8

    def embed_queries(self, images):
        return "query", images

    def embed_documents(self, images, texts):
        return "document", images, texts


def embed(picture=None, text=None, vector=None, model=None):
    return queries.embed(lambda: model or Model(), picture, text, vector)


def test_single_queries_and_lists_are_told_apart():
    image = np.zeros((8, 8, 3))
    assert embed("a.png") == (("query", ["a.png"]), True)
    assert embed(["a.png"]) == (("query", ["a.png"]), False)
    (_, given), is_one = embed(image)
    assert (len(given), is_one) == (1, True)
    (_, given), is_one = embed(np.stack([image, image]))
    assert (len(given), is_one) == (2, False)
    assert embed(text="a") == (("document", None, ["a"]), True)
    assert embed(text=["a", "b"]) == (("document", None, ["a", "b"]), False)
    assert embed("a.png", "b") == (("document", ["a.png"], ["b"]), True)
    rows, is_one = embed(vector=[1, 2])
    assert (rows.shape, is_one) == ((1, 2), True)
    rows, is_one = embed(vector=np.ones((3, 2)))
    assert (rows.shape, is_one) == ((3, 2), False)


def test_a_model_that_ignores_texts_cannot_search_by_text():
    model = Model()
    model.ignores_text = "no text encoder was given"
    with pytest.raises(UserError, match="searched by text: no text encoder"):
        embed(text="a", model=model)
    assert embed("a.png", "b", model=model)[1]
