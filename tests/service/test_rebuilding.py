"""Rebuilding indexes with another model."""

import numpy as np
import pytest

import mixer_jax
from mixer_jax.retrieval.model import Model
from mixer_jax.runtime.errors import UserError
from mixer_jax.service import building, opening, rebuilding
from mixer_jax.service.stores import database, place
from mixer_jax.service.stores.local import LocalStore
from tests.color_model import ColorModel


class Negative(ColorModel):
    """Embeds a document as its negated color."""

    def encode_document(self, document, train=False):
        return -super().encode_document(document, train)


BOTH = pytest.mark.parametrize("folder", ["index", "index.db"], indirect=True)


@pytest.fixture
def folder(request, color_run, colors, tmp_path):
    path = tmp_path / getattr(request, "param", "index")
    given = {"workdir": color_run, "table": colors[0] / "colors.csv"}
    building.build(path, **given, thumbnails=8)
    return path


@pytest.fixture
def other(color_run, monkeypatch):
    """Makes `load` return another model that records its batch sizes."""
    trained = mixer_jax.load(color_run)._trained
    counts, embed = [], Model.embed_documents

    def count(self, images, texts, **options):
        counts.append(len(texts))
        return embed(self, images, texts, **options)

    def load(workdir):
        import dataclasses

        return Model(dataclasses.replace(trained, model=Negative()))

    monkeypatch.setattr(rebuilding, "load", load)
    monkeypatch.setattr(Model, "fingerprint", "negative")
    monkeypatch.setattr(Model, "embed_documents", count)
    return counts


def embeddings(folder):
    with place.find(folder).open() as store:
        return {
            item.id: item.vectors[0].embedding
            for part in store.iterate(100)
            for item in part
        }


@BOTH
def test_all_items_are_embedded_again(folder, other, color_run):
    before = embeddings(folder)
    with place.find(folder).open() as old:
        assert rebuilding.rebuild(folder, color_run) == (12, 0)
        # An open store keeps using the old generation.
        (hits,) = old.search(np.array([[1, -1, -1]]), 1)
        assert hits[0].category == "red"
        assert not old.is_current()
        with pytest.raises(UserError, match="has been rebuilt since"):
            old.delete(["red_document_forward"])
    after = embeddings(folder)
    assert before.keys() == after.keys()
    for id, vector in before.items():
        np.testing.assert_allclose(after[id], -vector, atol=1e-6)
    with place.find(folder).open() as new:
        assert new.fingerprint == "negative"
        item = new.get(["red_document_forward"])[0]
        assert (item.text, item.category) == ("red paint", "red")
        assert item.vectors[0].thumbnail
        (hits,) = new.search(np.array([[1, -1, -1]]), 12)
        assert hits[-1].category == "red"
        shown = new.picture(hits[-1].id, hits[-1].number)
        assert shown.image == hits[-1].image
        assert shown.thumbnail


def test_kept_generations_stay_by_default(folder, other, color_run):
    rebuilding.rebuild(folder, color_run, keep=1)
    rebuilding.rebuild(folder, color_run)
    assert len(place.find(folder).earlier()) == 1
    rebuilding.rebuild(folder, color_run, keep=0)
    assert not place.find(folder).earlier()


def test_files_and_numbers_are_not_used_again(folder, other, color_run):
    with LocalStore.open(folder) as old:
        rebuilding.rebuild(folder, color_run)
        assert len(list(folder.glob("*.sqlite"))) == 2
        assert old.count() == 12
    assert len(list(folder.glob("*.sqlite"))) == 1
    with LocalStore.open(folder) as new:
        (hits,) = new.search(np.array([[1, -1, -1]]), 12)
        # Picture numbers continue after those of the old generation.
        assert min(hit.number for hit in hits) == 13


@BOTH
def test_writes_during_a_rebuild_are_kept(
    folder, other, color_run, monkeypatch
):
    copy = rebuilding._Work.copy

    def copy_and_write(self, label):
        copy(self, label)
        if label == "Embedding items":
            with place.find(folder).open() as store:
                store.delete(["red_document_forward"])
                (item,) = store.get(["blue_document_forward"])
                store.upsert([item._replace(id="late", text="late")])

    monkeypatch.setattr(rebuilding._Work, "copy", copy_and_write)
    assert rebuilding.rebuild(folder, color_run) == (12, 0)
    after = embeddings(folder)
    assert "late" in after
    assert "red_document_forward" not in after
    assert other == [12, 1]


def test_writers_wait_for_the_last_changes_only(
    folder, other, color_run, monkeypatch
):
    copy, labels = rebuilding._Work.copy, []

    def copy_and_write(self, label):
        copy(self, label)
        labels.append(label)
        if len(labels) <= 2:
            with LocalStore.open(folder) as store:
                (item,) = store.get(["blue_document_forward"])
                store.upsert([item._replace(id=f"late {len(labels)}")])

    # A blocked write fails immediately.
    monkeypatch.setattr(database, "_TIMEOUT", 0.01)
    monkeypatch.setattr(rebuilding._Work, "copy", copy_and_write)
    assert rebuilding.rebuild(folder, color_run) == (14, 0)
    assert {"late 1", "late 2"} < embeddings(folder).keys()
    assert labels == ["Embedding items", *["Embedding changed items"] * 2]


@BOTH
def test_changes_during_all_copies_are_kept(
    folder, other, color_run, monkeypatch
):
    copy, labels = rebuilding._Work.copy, []

    def copy_and_write(self, label):
        copy(self, label)
        labels.append(label)
        if len(labels) <= rebuilding._COPIES:
            with place.find(folder).open() as store:
                (item,) = store.get(["blue_document_forward"])
                store.upsert([item._replace(id=f"late {len(labels)}")])

    monkeypatch.setattr(rebuilding._Work, "copy", copy_and_write)
    assert rebuilding.rebuild(folder, color_run) == (15, 0)
    assert len(labels) == 1 + rebuilding._COPIES


def test_an_interrupted_rebuild_is_continued(
    folder, other, color_run, monkeypatch
):
    monkeypatch.setattr(rebuilding, "_ITEMS", 5)
    upsert = LocalStore.upsert

    def stop(self, items):
        if len(other) == 3:
            raise KeyboardInterrupt
        upsert(self, items)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "upsert", stop)
        with pytest.raises(KeyboardInterrupt):
            rebuilding.rebuild(folder, color_run)
    assert other == [5, 5, 2]
    assert rebuilding.rebuild(folder, color_run) == (12, 0)
    assert other == [5, 5, 2, 2]


def test_thumbnails_replace_missing_pictures(
    folder, other, color_run, colors, tmp_path
):
    colors[0].rename(tmp_path / "moved")
    assert rebuilding.rebuild(folder, color_run) == (12, 12)
    given = {"images": tmp_path / "moved", "storage": "f16"}
    assert rebuilding.rebuild(folder, color_run, **given) == (12, 0)
    with opening.open_with(folder) as index:
        assert index.store.storage == "f16"
        assert index.images == tmp_path / "moved"


@pytest.fixture
def sent(color_run, colors, tmp_path):
    """An index without thumbnails that holds items sent to it."""
    folder = tmp_path / "index"
    table = colors[0] / "colors.csv"
    building.build(folder, workdir=color_run, table=table)
    content = (colors[0] / "red_document_forward.png").read_bytes()
    with opening.open_with(folder) as index:
        given = {"images": [content, content, None]}
        given["texts"] = ["red paint", None, "words"]
        index.upsert(["both", "picture", "text"], **given)
    return folder


def test_pictures_that_are_not_stored_stop_a_rebuild(sent, other, color_run):
    message = "2 items, such as 'both', cannot .*picture is not stored"
    with pytest.raises(UserError, match=message):
        rebuilding.rebuild(sent, color_run)
    with LocalStore.open(sent) as store:
        store.delete(["picture"])
    with pytest.raises(UserError, match="Item 'both' cannot be embedded"):
        rebuilding.rebuild(sent, color_run)
    # Nothing was embedded before the error.
    assert other == []
    with LocalStore.open(sent) as store:
        store.delete(["both"])
    assert rebuilding.rebuild(sent, color_run) == (13, 0)


def test_a_picture_sent_during_a_rebuild_stops_it(
    sent, other, color_run, monkeypatch
):
    monkeypatch.setattr(rebuilding, "_check", lambda index: None)
    with pytest.raises(UserError, match="Item 'both' cannot be embedded"):
        rebuilding.rebuild(sent, color_run)


def test_items_that_cannot_be_embedded_are_named(
    color_run, colors, tmp_path, other
):
    folder = tmp_path / "index"
    table = colors[0] / "colors.csv"
    building.build(folder, workdir=color_run, table=table)
    (colors[0] / "gray_document_forward.png").unlink()
    with pytest.raises(UserError, match=r"'gray_doc.*missing.*--images=FOLDER"):
        rebuilding.rebuild(folder, color_run)
    with LocalStore.open(folder) as store:
        store.delete(["gray_document_forward"])
    with opening.open_with(folder) as index:
        index.upsert(["vector"], vectors=[[1, 0, 0]])
    with pytest.raises(UserError, match=r"'vector' .*picture is not stored"):
        rebuilding.rebuild(folder, color_run)
    with LocalStore.open(folder) as store:
        store._database.set(fingerprint="")
    with pytest.raises(UserError, match="vectors of an unknown model"):
        rebuilding.rebuild(folder, color_run)
