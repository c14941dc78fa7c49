"""Checks of pictures and texts."""

import pytest

from mixer_jax.retrieval import documents
from mixer_jax.runtime.errors import UserError


def test_missing_parts_are_filled_in():
    assert documents.align(None, ["a", None]) == ([None, None], ["a", ""])
    assert documents.align([b"p"], None) == ([b"p"], [""])


@pytest.mark.parametrize(
    ("images", "texts", "message"),
    [
        (None, None, "need images, texts or both"),
        (None, "a", "a single string"),
        (None, [5], "is a int, not a string"),
        ([b"p"], ["a", "b"], "1 images but 2 texts"),
    ],
)
def test_wrong_lists_are_reported(images, texts, message):
    with pytest.raises(UserError, match=message):
        documents.align(images, texts)


def test_empty_documents_are_reported():
    with pytest.raises(UserError, match="Document 1 has neither"):
        documents.require_content([None, None], ["a", " "])


def test_texts_that_the_model_ignores_cause_a_warning():
    with pytest.warns(UserWarning, match="Texts are ignored: because"):
        documents.require_images([b"p"], ["a"], "because")
    documents.require_images([b"p"], [""], "because")
    with pytest.raises(UserError, match=r"Document 1 has no .*: because\."):
        documents.require_images([b"p", None], ["", "a"], "because")
