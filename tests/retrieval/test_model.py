"""The Python interface to a small model that distinguishes colors."""

import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import mixer_jax
from mixer_jax.retrieval import embed
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.mesh import make_mesh

RED, BLUE = np.zeros((2, 8, 8, 3), np.uint8)
RED[..., 0] = BLUE[..., 2] = 255


@pytest.fixture
def model(color_run):
    return mixer_jax.load(color_run)


def test_pictures_and_table_rows_get_equal_embeddings(model, trained, colors):
    root, frame = colors
    made = embed.embed_table(trained, frame, root, make_mesh())
    for role, ids, expected in (
        ("queries", made.query_ids, made.query_embeddings),
        ("documents", made.document_ids, made.document_embeddings),
    ):
        files = [root / f"{name}.png" for name in ids]
        found = getattr(model, f"embed_{role}")(files, batch_size=5)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_rows_do_not_depend_on_batches_or_devices(model, color_run):
    pictures = np.random.default_rng(0).integers(
        0, 256, (11, 8, 8, 3), np.uint8
    )
    whole = model.embed_queries(pictures)
    assert whole.shape == (11, 3)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, rtol=1e-5)
    for devices in (1, 2, 4, 8):
        mesh = make_mesh(jax.devices()[:devices])
        other = mixer_jax.load(color_run, mesh=mesh)
        for size in (1, 3, 64):
            found = other.embed_queries(pictures, batch_size=size)
            np.testing.assert_allclose(found, whole, atol=1e-6)


def test_no_pictures_give_no_rows(model):
    assert model.embed_queries([]).shape == (0, 3)
    assert model.embed_documents([], []).shape == (0, 3)


def test_a_document_may_lack_a_picture_or_a_text(model):
    found = model.embed_documents([RED, None], [None, "red paint"])
    np.testing.assert_allclose(found[1], [0, 0, 1], atol=1e-6)
    np.testing.assert_array_equal(
        model.embed_documents(texts=["red paint"]), found[1:]
    )
    np.testing.assert_array_equal(model.embed_documents([RED]), found[:1])


def test_invalid_documents_raise_an_error(model):
    with pytest.raises(UserError, match="images, texts or both"):
        model.embed_documents()
    with pytest.raises(UserError, match="Document 1 has neither"):
        model.embed_documents([RED, None], ["red", " "])
    with pytest.raises(UserError, match="2 images but 1 texts"):
        model.embed_documents([RED, BLUE], ["red"])
    with pytest.raises(UserError, match=r"texts\[0\] is a float"):
        model.embed_documents(texts=[np.nan])
    with pytest.raises(UserError, match="put it in a list"):
        model.embed_documents(texts="red")


def test_errors_name_the_unreadable_picture(model, tmp_path):
    Image.fromarray(RED).save(tmp_path / "red.png")
    good = tmp_path / "red.png"
    with pytest.raises(UserError, match=r"images\[70\]: .*missing"):
        model.embed_queries([good] * 70 + [tmp_path / "no.png"])
    with pytest.raises(UserError, match=r"images\[1\] is None"):
        model.embed_queries([good, None])
    with pytest.raises(UserError, match="batch_size is 0"):
        model.embed_queries([good], batch_size=0)


def test_evaluate_measures_a_table(model, colors):
    root, _ = colors
    rows = model.evaluate(root / "colors.csv")
    galleries = {row["gallery"] for row in rows}
    assert galleries == {"test", "test+distractors"}
    assert rows[0]["identical_at_1"] == 1.0
    rows = model.evaluate(root / "colors.csv", distractors="")
    assert {row["gallery"] for row in rows} == {"test"}
    with pytest.raises(UserError, match="valid"):
        model.evaluate(root / "colors.csv", split="valid")


def test_ignored_texts_cause_a_warning(color_run, monkeypatch):
    import json

    path = color_run / "stage2" / "config.json"
    config = json.loads(path.read_text())
    config["model"]["fusion"] = "image_only"
    path.write_text(json.dumps(config))
    model = mixer_jax.load(color_run)
    assert "text=None" in repr(model)
    with pytest.warns(UserWarning, match="'image_only', does not use text"):
        found = model.embed_documents([RED], ["red"])
    np.testing.assert_array_equal(found, model.embed_documents([RED]))
    with pytest.raises(UserError, match="Document 0 has no picture"):
        model.embed_documents(texts=["red"])


def test_a_missing_model_raises_an_error(color_run, tmp_path):
    with pytest.raises(UserError, match="no trained stage"):
        mixer_jax.load(tmp_path / "missing")
    shutil.rmtree(color_run / "stage2" / "checkpoints")
    with pytest.raises(UserError, match="no checkpoint"):
        mixer_jax.load(color_run)
