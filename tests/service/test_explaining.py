"""Explanations of an index's items."""

import threading

import numpy as np
import pytest

from mixer_jax.models import explanations
from mixer_jax.runtime.errors import UserError
from mixer_jax.service import explaining
from mixer_jax.service.batches.batching import FullError


@pytest.fixture
def explained():
    made = explaining.Explanations()
    yield made
    made.close()


def submit(explained, generations, id):
    index = generations.current.index
    item = index.get(id)
    return explained.submit(index, item, item.vectors[0])


def test_an_item_is_explained_by_its_model(explained, looked_at, tiny_net):
    found = submit(explained, looked_at, "flag").result()
    index = looked_at.current.index
    expected = tiny_net.explain(index.images / "flag.png", "a red flag")
    np.testing.assert_array_equal(
        found.explanation.attention, expected.attention
    )
    assert found.explanation.tokens == expected.tokens
    assert found.cosine == pytest.approx(1, abs=1e-5)


def test_a_changed_picture_lowers_the_cosine(explained, looked_at):
    index = looked_at.current.index
    item = index.get("words")
    other = index.get("flag").vectors[0]
    found = explained.submit(index, item, other).result()
    assert found.cosine < 0.999


def test_a_picture_that_is_not_stored_is_named(explained, looked_at):
    index = looked_at.current.index
    item = index.get("flag")
    vector = item.vectors[0]._replace(image="")  # as of a picture in a request
    found = explained.submit(index, item, vector).result()
    reason = f"no picture is stored; {explaining.NOT_STORED}"
    assert found.explanation.reason == reason


def test_a_missing_picture_raises_an_error(explained, looked_at):
    with pytest.raises(UserError, match=r"gone\.png: the file is missing"):
        submit(explained, looked_at, "gone").result()


def test_too_many_items_are_refused(explained, looked_at, monkeypatch):
    entered, opened = threading.Semaphore(0), threading.Event()

    def wait(*_):
        entered.release()
        opened.wait()
        raise UserError("late")

    monkeypatch.setattr(explanations.Explainer, "__call__", wait)
    futures = [submit(explained, looked_at, "flag")]
    entered.acquire()  # The first one has left the queue.
    for _ in range(explaining.WAITING):
        futures.append(submit(explained, looked_at, "flag"))
    with pytest.raises(FullError):
        submit(explained, looked_at, "flag")
    opened.set()
    for future in futures:
        with pytest.raises(UserError, match="late"):
            future.result()
