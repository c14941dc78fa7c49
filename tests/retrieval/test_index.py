"""An index of a small table of colored squares."""

import dataclasses
import json
import pathlib
import shutil
import tempfile

import jax
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer_jax.data.tables import table
from mixer_jax.retrieval import index, places
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.mesh import make_mesh


@pytest.fixture
def made(color_run, colors):
    path = colors[0] / "colors.csv"
    return index.build(color_run, path, make_mesh(), batch_size=8)[0]


def test_documents_are_embedded_by_the_last_stage(made, color_run, colors):
    root, frame = colors
    frame = frame[frame.role == "document"]
    assert list(made.documents.sample_id) == list(frame.sample_id)
    assert list(made.documents.columns) == list(index.COLUMNS)
    assert made.documents.image[0] == frame.image.iloc[0]
    assert made.images == root
    assert (made.workdir, made.step) == (color_run / "stage2", 4)
    assert made.embeddings.shape == (12, 3)
    assert made.embeddings.dtype == np.float32
    assert made.embeddings[0] @ [1, -1, -1] > 1.6  # red


def test_images_outside_the_folder_of_the_table_are_found(
    color_run, colors, tmp_path
):
    root, frame = colors
    here = tmp_path / "elsewhere" / "colors.parquet"
    here.parent.mkdir()
    absolute = [str(root / name) for name in frame.image]
    table.write_table(frame.assign(image=absolute), here)
    made, _ = index.build(color_run, here, make_mesh(), batch_size=8)
    assert made.images == tmp_path
    names = frame[frame.role == "document"].image
    assert made.pictures == [f"{root.name}/{name}" for name in names]
    index.save(made, tmp_path / "index")
    assert index.load(tmp_path / "index").images == tmp_path
    assert not places.check_images(made.images, made.pictures, made.sizes)


def test_a_saved_index_can_be_loaded(made, tmp_path):
    folder = tmp_path / "new" / "index"
    made.documents.loc[0, ["image", "text", "group"]] = [
        "",
        'a "quoted", NA\nnull',
        "NA",
    ]
    index.save(made, folder)
    found = index.load(folder)
    assert found.documents.equals(made.documents)
    assert found.pictures == list(made.documents.image[1:])
    np.testing.assert_array_equal(found.embeddings, made.embeddings)
    assert found[2:] == made[2:]
    meta = json.loads((folder / "index.json").read_text())
    assert list(meta.pop("checksums")) == ["embeddings.npy", "documents.csv"]
    assert meta == {
        "format": 1,
        "workdir": ["../../run/stage2", str(made.workdir)],
        "images": ["../../data", str(made.images)],
        "step": 4,
        "fingerprint": made.fingerprint,
        "sizes": list(made.sizes),
        "N": 12,
        "D": 3,
    }
    # A second index replaces the first.
    index.save(
        made._replace(
            documents=made.documents[:5], embeddings=made.embeddings[:5]
        ),
        folder,
    )
    assert len(index.load(folder).documents) == 5
    assert [p.name for p in folder.parent.iterdir()] == ["index"]


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(["thing\rnumber 0", "\r", "\x85", "\u2028", '"']),
            st.text(max_size=8),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_any_text_survives_saving_and_loading(texts):
    columns = dict.fromkeys(index.COLUMNS, texts)
    documents = pd.DataFrame(columns, dtype=str)
    embeddings = np.ones((len(texts), 1), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        (place / "run" / "checkpoints" / "1").mkdir(parents=True)
        made = index.Index(
            documents, embeddings, place / "run", 1, place, fingerprint=""
        )
        index.save(made, place / "index")
        found = index.load(place / "index").documents
    assert found.to_numpy().tolist() == documents.to_numpy().tolist()


def test_build_selects_a_split_and_rejects_unreadable_images(color_run, colors):
    root, frame = colors
    run, mesh = color_run / "stage1", make_mesh()
    found, skipped = index.build(run, root / "colors.csv", mesh, "train")
    assert set(found.documents.category_id) == {"gray", "white"}
    assert not skipped.count
    # Queries are ignored; unreadable documents raise an error.
    (root / "red_query_forward.png").write_bytes(b"nothing")
    index.build(run, root / "colors.csv", mesh)
    (root / "red_document_forward.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match="1 of 12"):
        index.build(run, root / "colors.csv", mesh)
    table.write_table(frame[frame.role == "query"], root / "queries.csv")
    with pytest.raises(UserError, match=r"no documents in .*queries"):
        index.build(run, root / "queries.csv", mesh)
    with pytest.raises(UserError, match="'nothing'"):
        index.build(run, root / "colors.csv", mesh, "nothing")


def test_other_contents_are_not_overwritten(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where results are rescued
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(UserError, match="has contents other than"):
        index.save(made, tmp_path / "mine")
    with pytest.raises(UserError, match="is a file"):
        index.save(made, tmp_path / "mine" / "thesis.txt")
    with pytest.raises(UserError, match="cannot be written"):
        index.save(made, tmp_path / "mine" / "thesis.txt" / "index")
    assert list(tmp_path.glob("rescued-*/index"))
    (tmp_path / "empty").mkdir()
    index.save(made, tmp_path / "empty")
    assert index.load(tmp_path / "empty").step == 4


def test_a_damaged_index_raises_an_error(made, tmp_path):
    for name in ("embeddings.npy", "documents.csv"):
        index.save(made, tmp_path / "index")
        path = tmp_path / "index" / name
        whole = path.read_bytes()
        for content in (b"", whole[: len(whole) // 2], b"\xff" + whole):
            path.write_bytes(content)
            with pytest.raises(UserError, match=r"damaged .* rebuild"):
                index.load(tmp_path / "index")


def _without_checksums(folder):
    """Removes the checksums, as in an older version."""
    meta = json.loads((folder / "index.json").read_text())
    del meta["checksums"]
    (folder / "index.json").write_text(json.dumps(meta))


@pytest.mark.parametrize("name", ["embeddings.npy", "documents.csv"])
def test_a_flipped_bit_raises_an_error(made, tmp_path, name):
    index.save(made, tmp_path / "index")
    path = tmp_path / "index" / name
    content = path.read_bytes()
    for byte in (8, 30, len(content) // 2, -2):
        flipped = bytearray(content)
        flipped[byte] ^= 4
        path.write_bytes(flipped)
        with pytest.raises(UserError, match=f"{name} does not match its check"):
            index.load(tmp_path / "index")


@pytest.mark.parametrize("bit", range(8))
def test_a_damaged_header_of_an_older_index_raises_an_error(
    made, tmp_path, bit
):
    index.save(made, tmp_path / "index")
    _without_checksums(tmp_path / "index")
    path = tmp_path / "index" / "embeddings.npy"
    content = bytearray(path.read_bytes())
    content[8] ^= 1 << bit  # of the header's length
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        index.load(tmp_path / "index")


def test_inconsistent_files_raise_an_error(made, tmp_path):
    with pytest.raises(UserError, match="no index in"):
        index.load(tmp_path / "index")
    index.save(made, tmp_path / "index")
    _without_checksums(tmp_path / "index")
    embeddings = tmp_path / "index" / "embeddings.npy"
    for array, message in (
        (made.embeddings[:5], "do not match each other"),
        (made.embeddings * np.nan, "not finite"),
    ):
        np.save(embeddings, array)
        with pytest.raises(UserError, match=message):
            index.load(tmp_path / "index")
    endless = '{"workdir": "w", "step": 1e999}'
    deep = "[" * 100_000
    for text in ("[]", "{", '{"workdir": null}', '{"step": 4}', endless, deep):
        (tmp_path / "index" / "index.json").write_text(text)
        with pytest.raises(UserError, match="damaged"):
            index.load(tmp_path / "index")


def change_record(folder, **values):
    path = folder / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_newer_format_is_refused(made, tmp_path):
    folder = tmp_path / "index"
    index.save(made, folder)
    # A newer version may have other keys, other files and other types.
    change_record(folder, format=index.FORMAT + 1, step="4", checksums=None)
    (folder / "documents.csv").unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError) as raised:
        index.load(folder)
    assert str(raised.value) == (
        f"The index in {folder} has format 2, but this version of mixer_jax "
        "only reads formats up to 1; install a newer version, or rebuild it "
        "with python -m mixer_jax.index."
    )
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after == before
    # It can be written again, as the message says.
    index.save(made, folder)
    assert index.load(folder).step == 4


def test_loading_another_model_raises_an_error(made, tmp_path):
    mesh = make_mesh()
    assert index.load_model(made, mesh).step == 4
    with pytest.raises(UserError, match=r"step 3 in .* now has step 4"):
        index.load_model(made._replace(step=3), mesh)
    with pytest.raises(UserError, match="now has no checkpoint"):
        index.load_model(made._replace(workdir=tmp_path / "no"), mesh)
    wider = made._replace(embeddings=np.zeros((12, 4), np.float32))
    with pytest.raises(UserError, match="different model"):
        index.load_model(wider, mesh)


def test_embeddings_that_are_not_finite_raise_an_error(
    color_run, colors, monkeypatch
):
    monkeypatch.setattr(
        index.embed,
        "make_embedder",
        lambda *_: lambda frame: np.full((len(frame), 3), np.nan, np.float32),
    )
    with pytest.raises(UserError, match="not finite"):
        index.build(color_run, colors[0] / "colors.csv", make_mesh())


def check_images(made):
    return places.check_images(made.images, made.pictures, made.sizes)


def move_all(made, tmp_path):
    """Moves index, workdir and pictures to a new folder; returns the index."""
    index.save(made, tmp_path / "index")
    (tmp_path / "all").mkdir()
    for name in ("index", "run", "data"):
        (tmp_path / name).rename(tmp_path / "all" / name)
    return tmp_path / "all" / "index"


def test_folders_moved_together_are_found(made, tmp_path, monkeypatch):
    folder = move_all(made, tmp_path)
    monkeypatch.chdir(folder.parent)
    for place in (folder, "index", "../all/run/../index"):
        found = index.load(place)
        assert found.workdir == folder.parent / "run" / "stage2"
        assert found.images == folder.parent / "data"
        assert check_images(found) == ""
        assert index.load_model(found, make_mesh()).step == 4


def test_a_copy_uses_its_own_pictures(made, tmp_path):
    index.save(made, tmp_path / "index")
    for name in ("index", "run", "data"):
        shutil.copytree(tmp_path / name, tmp_path / "copy" / name)
    found = index.load(tmp_path / "copy" / "index")
    assert found.workdir == tmp_path / "copy" / "run" / "stage2"
    assert found.images == tmp_path / "copy" / "data"


def test_an_index_moved_alone_finds_its_model_and_pictures(made, tmp_path):
    index.save(made, tmp_path / "index")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "index").rename(tmp_path / "deep" / "er" / "index")
    found = index.load(tmp_path / "deep" / "er" / "index")
    assert found[2:] == made[2:]


def test_given_folders_are_used_and_missing_ones_raise_an_error(made, tmp_path):
    folder = move_all(made, tmp_path)
    (tmp_path / "all" / "run").rename(tmp_path / "model")
    (tmp_path / "all" / "data").rename(tmp_path / "pictures")
    with pytest.raises(UserError, match=r"no checkpoint in .*--workdir="):
        index.load(folder)
    found = index.load(folder, tmp_path / "model")
    message = check_images(found)
    assert "12 of 12 pictures are missing in" in message
    assert "--images=FOLDER" in message
    assert str(found.images) in message
    found = index.load(folder, tmp_path / "model", tmp_path / "pictures")
    assert check_images(found) == ""
    assert found.workdir == tmp_path / "model" / "stage2"
    for wrong in ({"workdir": tmp_path / "no"}, {"images": tmp_path / "no"}):
        with pytest.raises(UserError, match="no"):
            index.load(folder, **{"workdir": tmp_path / "model", **wrong})


def test_an_index_behind_a_link_finds_its_model_and_pictures(made, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "index").symlink_to(tmp_path / "disk")
    index.save(made, tmp_path / "real")
    for file in (tmp_path / "real").iterdir():
        shutil.move(file, tmp_path / "disk")
    for place in ("index", "disk"):
        found = index.load(tmp_path / place)
        assert found[2:] == made[2:]


def test_an_older_index_with_absolute_paths_can_be_loaded(made, tmp_path):
    index.save(made, tmp_path / "index")
    path = tmp_path / "index" / "index.json"
    meta = json.loads(path.read_text())
    del meta["images"], meta["fingerprint"], meta["checksums"]
    path.write_text(json.dumps(meta | {"workdir": str(made.workdir)}))
    absolute = [str(made.images / name) for name in made.documents["image"]]
    documents = made.documents.assign(image=absolute)
    documents.to_csv(tmp_path / "index" / "documents.csv", index=False)
    found = index.load(tmp_path / "index")
    assert check_images(found) == ""
    assert index.load_model(found, make_mesh()).step == 4


def test_another_model_of_the_same_step_raises_an_error(made, monkeypatch):
    load = index.checkpoints.load_model

    def other(*arguments):
        trained = load(*arguments)
        variables = jax.tree.map(lambda x: x + 1, trained.variables)
        return dataclasses.replace(trained, variables=variables)

    monkeypatch.setattr(index.checkpoints, "load_model", other)
    with pytest.raises(UserError, match=r"different model .*--workdir="):
        index.load_model(made, make_mesh())


@pytest.mark.parametrize(
    "name", ["../../etc/x.png", "/etc/passwd", "a/../../b.png", "~/x.png"]
)
def test_pictures_outside_the_image_folder_raise_an_error(made, tmp_path, name):
    made.documents.loc[2, "image"] = name
    index.save(made, tmp_path / "index")
    with pytest.raises(UserError, match=r"outside the image folder.* rebuild"):
        index.load(tmp_path / "index")


@pytest.mark.parametrize(
    "change",
    [
        {"format": 0},
        {"format": "1"},
        {"format": True},
        {"step": True},
        {"step": 4.5},
        {"step": float("inf")},
        {"fingerprint": None},
        {"fingerprint": ["x" * 5000]},
        {"workdir": {}},
        {"images": "gs://bucket/data"},
        {"N": "12"},
    ],
)
def test_an_invalid_field_raises_an_error(made, tmp_path, change):
    index.save(made, tmp_path / "index")
    path = tmp_path / "index" / "index.json"
    meta = json.loads(path.read_text())
    path.write_text(json.dumps(meta | change))
    with pytest.raises(UserError, match=r"damaged .* rebuild") as raised:
        index.load(tmp_path / "index")
    assert len(str(raised.value)) < 800
    (key,) = change
    if key not in ("images", "fingerprint"):  # The first version had neither.
        del meta[key]
        path.write_text(json.dumps(meta))
        wrong = f"no '{key}'" if key != "format" else "format in index.json is"
        with pytest.raises(UserError, match=rf"{wrong}.* rebuild"):
            index.load(tmp_path / "index")


def test_an_invalid_array_raises_an_error(made, tmp_path):
    index.save(made, tmp_path / "index")
    path = tmp_path / "index" / "embeddings.npy"
    whole = path.read_bytes()
    (tmp_path / "index" / "index.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"damaged .* rebuild"):
        index.load(tmp_path / "index")
    index.save(made, tmp_path / "index")
    path.write_bytes(whole.replace(b"{", b"(", 1))
    with pytest.raises(UserError, match=r"damaged .* rebuild"):
        index.load(tmp_path / "index")
    _without_checksums(tmp_path / "index")
    np.save(path, made.embeddings.astype(np.complex64))
    with pytest.raises(UserError, match="complex64, not float32"):
        index.load(tmp_path / "index")


def test_other_pictures_with_the_same_names_are_not_used(made, tmp_path):
    (tmp_path / "there" / "data").mkdir(parents=True)
    index.save(made, tmp_path / "index")
    (tmp_path / "index").rename(tmp_path / "there" / "index")
    for name in made.documents["image"]:
        (tmp_path / "there" / "data" / name).write_bytes(b"another")
    found = index.load(tmp_path / "there" / "index")
    assert found.images == made.images
    assert check_images(found) == ""
    # If no folder has the original pictures, there is a message.
    (tmp_path / "data").rename(tmp_path / "moved")
    found = index.load(tmp_path / "there" / "index")
    message = check_images(found)
    assert "12 of the first 12 pictures in" in message
    assert "--images=FOLDER" in message
    images = tmp_path / "moved"
    found = index.load(tmp_path / "there" / "index", images=images)
    assert check_images(found) == ""


def test_another_run_with_the_same_name_is_not_used(made, tmp_path):
    index.save(made, tmp_path / "index")
    (tmp_path / "there").mkdir()
    (tmp_path / "index").rename(tmp_path / "there" / "index")
    other = tmp_path / "there" / "run" / "stage2" / "checkpoints" / "9"
    other.mkdir(parents=True)
    found = index.load(tmp_path / "there" / "index")
    assert found.workdir == made.workdir


def test_an_index_replaced_during_loading_is_read_consistently(
    made, tmp_path, monkeypatch
):
    index.save(made, tmp_path / "index")
    other = made._replace(
        embeddings=-made.embeddings, documents=made.documents.iloc[::-1]
    )
    read = index.tables.read

    def replace_and_read(*arguments):
        monkeypatch.setattr(index.tables, "read", read)
        index.save(other, tmp_path / "index")
        return read(*arguments)

    monkeypatch.setattr(index.tables, "read", replace_and_read)
    found = index.load(tmp_path / "index")
    np.testing.assert_array_equal(found.embeddings, other.embeddings)
    assert list(found.documents.sample_id) == list(other.documents.sample_id)
