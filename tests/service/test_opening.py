"""Opening and creating indexes, and finding models and pictures."""

import json
import shutil

import numpy as np
import pytest

import mixer_jax
from mixer_jax.runtime.errors import UserError
from mixer_jax.service import building, opening

RED = np.full((8, 8, 3), [255, 0, 0], np.uint8)


BOTH = pytest.mark.parametrize("folder", ["index", "index.db"], indirect=True)


@pytest.fixture
def folder(request, color_run, colors, tmp_path):
    path = tmp_path / getattr(request, "param", "index")
    building.build(path, workdir=color_run, table=colors[0] / "colors.csv")
    return path


def search(folder, *model, **given):
    with mixer_jax.open_index(folder, *model, **given) as index:
        return index.search(RED, k=1)[0]


@BOTH
def test_folders_moved_together_are_found(folder, tmp_path):
    (tmp_path / "all").mkdir()
    for name in (folder.name, "run", "data"):
        (tmp_path / name).rename(tmp_path / "all" / name)
    hit = search(tmp_path / "all" / folder.name)
    assert hit.category == "red"
    assert hit.image.parent == tmp_path / "all" / "data"


def test_nothing_names_the_place_where_it_was_made(folder, tmp_path):
    for path in folder.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()


def test_an_index_moved_alone_is_told_where_the_others_are(folder, tmp_path):
    (tmp_path / "far" / "away").mkdir(parents=True)
    shutil.move(folder, tmp_path / "far" / "away" / "index")
    folder = tmp_path / "far" / "away" / "index"
    with pytest.raises(UserError, match=r"no checkpoint in .*--workdir="):
        search(folder)
    run, data = tmp_path / "run", tmp_path / "data"
    hit = search(folder, run, images=data)
    assert hit.image.parent == data
    with mixer_jax.open_index(folder, images=data) as index:
        assert opening.check_images(index) == ""
    with mixer_jax.open_index(folder) as index:
        assert "12 of 12 pictures are missing" in opening.check_images(index)
    with pytest.raises(UserError, match=r"no folder .*--images="):
        search(folder, run, images=tmp_path / "no")


def test_an_index_behind_a_link_finds_the_others(folder, tmp_path):
    (tmp_path / "disk").mkdir()
    shutil.move(folder, tmp_path / "disk" / "index")
    folder.symlink_to(tmp_path / "disk" / "index")
    assert search(folder).image.parent == tmp_path / "data"


@BOTH
def test_another_model_is_refused(folder, color_run, monkeypatch):
    model = mixer_jax.load(color_run)
    monkeypatch.setattr(mixer_jax.Model, "fingerprint", "other")
    with pytest.raises(UserError, match=r"different model .*not other\); name"):
        search(folder, model)
    # The recorded model is only loaded when it is needed.
    with mixer_jax.open_index(folder) as index:
        assert len(index.search(vector=[1, 0, 0])) == 10
        with pytest.raises(UserError, match="different model"):
            index.search(RED)


def test_an_index_is_created_once(color_run, tmp_path):
    folder = tmp_path / "new"
    with pytest.raises(UserError, match="name a model to create one"):
        mixer_jax.open_index(folder)
    given = {"storage": "int8", "fields": {"brand": "text"}}
    with mixer_jax.open_index(folder, color_run, **given) as index:
        index.upsert(["a"], images=[RED], fields=[{"brand": "acme"}])
        assert index.store.storage == "int8"
    # The workdir was recorded.
    with mixer_jax.open_index(folder, fields={"size": "number"}) as index:
        assert [hit.id for hit in index.search(RED)] == ["a"]
        assert dict(index.store.fields) == {"brand": "text", "size": "number"}


def test_an_index_is_created_in_milvus(color_run, tmp_path):
    path = tmp_path / "index.db"
    given = {"index_kind": "FLAT", "fields": {"brand": "text"}}
    with mixer_jax.open_index(path, color_run, **given) as index:
        index.upsert(["a"], images=[RED], fields=[{"brand": "acme"}])
        assert index.store.properties["index_kind"] == "FLAT"
    with mixer_jax.open_index(path, fields={"size": "number"}) as index:
        (hit,) = index.search(RED, where={"brand": "acme"})
        assert hit.image[:4] == b"RIFF"  # the thumbnail
        assert dict(index.store.fields) == {"brand": "text", "size": "number"}


def test_an_index_may_not_know_where_its_model_is(color_run, tmp_path):
    mixer_jax.open_index(tmp_path / "new", mixer_jax.load(color_run)).close()
    with (
        mixer_jax.open_index(tmp_path / "new") as index,
        pytest.raises(UserError, match="does not record where its model is; p"),
    ):
        index.search(RED)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"storage": "f61"}, "no storage 'f61'; did you mean 'f16'"),
        ({"thumbnails": -1}, "from 0 to 4096"),
        ({"fields": {"a": "x"}}, "the kind 'x'"),
        ({"index_kind": "FLAT"}, "is for an index in Milvus"),
    ],
)
def test_an_invalid_new_index_is_not_created(
    color_run, tmp_path, given, message
):
    with pytest.raises(UserError, match=message):
        mixer_jax.open_index(tmp_path / "new", color_run, **given)
    assert not (tmp_path / "new").exists()


def test_a_folder_with_other_contents_is_kept(color_run, colors):
    with pytest.raises(UserError, match="has contents other than"):
        mixer_jax.open_index(colors[0], color_run)


def test_an_index_of_an_earlier_version_is_refused(tmp_path, color_run):
    record = {"format": 1, "workdir": "w", "step": 4, "N": 12, "D": 3}
    (tmp_path / "index.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="no longer reads; build it again in"):
        mixer_jax.open_index(tmp_path, color_run)
