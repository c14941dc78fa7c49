"""Switching to a rebuilt index."""

import numpy as np
import pytest

from mixer_jax.retrieval.model import Model
from mixer_jax.runtime.errors import UserError
from mixer_jax.service import opening
from mixer_jax.service.batches.generations import (
    ClosedError,
    Generations,
    opener,
)
from mixer_jax.service.stores.interface import Item, Vector
from mixer_jax.service.stores.local import LocalStore
from tests.service.conftest import PIXELS
from tests.service.conftest import opener as opening_with


def rebuild(folder, model, fingerprint=None):
    """Replaces an index with a single-item one."""
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
    with pytest.raises(UserError, match="does not record where its model"):
        open_(other)


def test_a_rebuild_with_another_model_is_served(
    place, color_net, tmp_path, monkeypatch
):
    """The option --workdir names the model of the first index."""
    models = {"old": color_net, "new": Model(color_net._trained)}
    monkeypatch.setattr(
        Model,
        "fingerprint",
        property(lambda self: "new" if self is models["new"] else "old"),
    )
    loaded = []

    def load(store, workdir=None, mesh=None):
        loaded.append(workdir or "new")
        model = models[loaded[-1]]
        opening.check_model(store, model.fingerprint)
        return model

    monkeypatch.setattr(opening, "load_model", load)
    with LocalStore.open(place) as store:
        store._database.set(fingerprint="old")
    with Generations(opener(place, workdir="old"), PIXELS) as made:
        assert loaded == ["old"]
        rebuild(place, color_net, fingerprint="new")
        assert made.refresh()
        assert made.current.encoder.model is models["new"]
        assert loaded == ["old", "old", "new"]
        rebuild(place, color_net, fingerprint="third")
        with pytest.raises(UserError, match="third, not old"):
            made.refresh()


def test_a_closed_index_cannot_be_used(place, color_net):
    made = Generations(opening_with(place, color_net), PIXELS)
    with made.use() as generation:
        made.close()
        assert len(generation.index) == 12
        # The index stays usable until its last request ends.
        with made.use():
            pass
    with pytest.raises(ClosedError, match="closed"), made.use():
        pass
    rebuild(place, color_net)
    assert not made.refresh()


def test_an_index_that_is_closed_during_a_switch_stays_closed(place, color_net):
    opened = []

    def open_(model):
        opened.append(opening.open_with(place, color_net))
        if model is not None:
            made.close()
        return opened[-1]

    made = Generations(open_, PIXELS)
    rebuild(place, color_net)
    assert not made.refresh()
    for index in opened:
        with pytest.raises(Exception, match="closed"):
            len(index)


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
