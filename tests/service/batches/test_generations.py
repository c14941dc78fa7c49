"""Switching to a rebuilt index."""

import numpy as np
import pytest

from mixer_jax.retrieval.model import Model
from mixer_jax.runtime.errors import UserError
from mixer_jax.service import opening
from mixer_jax.service.batches.generations import Generations, opener
from mixer_jax.service.stores.interface import Item, Vector
from mixer_jax.service.stores.local import LocalStore
from tests.service.conftest import PIXELS


def rebuild(folder, model, fingerprint=None):
    """Replaces an index by one with a single item."""
    properties = opening.describe(
        model.dim, fingerprint or model.fingerprint, "f32", 0, {}
    )
    properties |= opening.locate(folder)
    with LocalStore.draft(folder, properties) as made:
        vector = Vector(b"0" * 16, np.ones(3, np.float32))
        made.upsert([Item("only", (vector,))])
        made.publish()


def test_the_model_of_the_index_is_used_again(place, color_net, monkeypatch):
    open_ = opener(place)
    with open_(color_net) as index:
        assert index.model is color_net
    other = Model(color_net._trained)
    monkeypatch.setattr(Model, "fingerprint", "other")
    # A model with another fingerprint is loaded from the recorded path.
    expected = pytest.raises(UserError, match="does not record where its model")
    with open_(other) as index, expected:
        _ = index.model


def test_a_generation_stays_open_while_it_is_used(own, place, color_net):
    with own.use() as old:
        rebuild(place, color_net)
        assert own.refresh()
        assert not own.refresh()
        assert (len(old.index), own.count) == (12, 2)
        with own.use() as new:
            assert len(new.index) == 1
    with pytest.raises(Exception, match="closed"):
        len(old.index)


def test_a_bad_new_index_leaves_the_old_one(own, place, color_net):
    rebuild(place, color_net, fingerprint="another")
    with pytest.raises(UserError, match="different model"):
        own.refresh()
    with own.use() as generation:
        assert len(generation.index) == 12


def test_nothing_stays_open_if_the_start_fails(place, color_net, monkeypatch):
    closed = []
    close = LocalStore.close
    monkeypatch.setattr(
        LocalStore, "close", lambda self: closed.append(close(self))
    )
    with pytest.raises(UserError, match="does not record where its model"):
        Generations(opener(place), PIXELS)
    assert closed
