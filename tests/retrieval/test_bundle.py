"""Bundles of a small model that sees colors, and of zero-shot models."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

import mixer_jax
from mixer_jax import embed, evaluate, export, index, serve
from mixer_jax.retrieval import bundle, calibration, model
from mixer_jax.runtime.errors import UserError
from mixer_jax.service import opening

PICTURES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)


@pytest.fixture
def made(trained, tmp_path):
    bundle.write(trained, tmp_path / "bundle")
    return tmp_path / "bundle"


def change_config(folder, **values):
    path = folder / bundle.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_moved_bundle_gives_the_same_embeddings(made, color_run, tmp_path):
    expected = mixer_jax.load(color_run)
    queries, documents = (
        expected.embed_queries(PICTURES),
        expected.embed_documents(PICTURES, ["a text"] * 5),
    )
    shutil.move(made, tmp_path / "moved to")
    shutil.rmtree(color_run)
    shutil.rmtree(tmp_path / "data")
    found = mixer_jax.load(tmp_path / "moved to")
    assert found.fingerprint == expected.fingerprint
    np.testing.assert_array_equal(found.embed_queries(PICTURES), queries)
    np.testing.assert_array_equal(
        found.embed_documents(PICTURES, ["a text"] * 5), documents
    )


def test_a_bundle_contains_no_local_paths(made, tmp_path):
    here = os.path.realpath(tmp_path)
    names = [path.name for path in made.iterdir()]
    assert sorted(names) == sorted(bundle.KIND.names)
    for path in made.iterdir():
        content = path.read_bytes()
        for place in (here, str(tmp_path), os.getcwd(), sys.prefix):
            assert place.encode() not in content, (path, place)


def test_files_get_the_permissions_of_the_umask(trained, tmp_path):
    before = os.umask(0o027)
    try:
        bundle.write(trained, tmp_path / "bundle")
    finally:
        os.umask(before)
    for path in (tmp_path / "bundle").iterdir():
        assert path.stat().st_mode & 0o777 == 0o640, path


def test_a_loaded_bundle_can_be_saved_again(made, tmp_path):
    loaded = mixer_jax.load(made)
    loaded.save(tmp_path / "again")
    for name in (bundle.CONFIG, bundle.TOKENIZER, bundle.WEIGHTS):
        first, second = (
            json.loads((folder / name).read_text())
            if name != bundle.WEIGHTS
            else (folder / name).read_bytes()
            for folder in (made, tmp_path / "again")
        )
        if name == bundle.CONFIG:
            first.pop("categories"), second.pop("categories")
        assert first == second


def test_the_fingerprint_covers_what_embeddings_depend_on(trained):
    fingerprint = bundle.fingerprint(trained)
    config = trained.config.copy_and_resolve_references()
    config.data.table = "elsewhere.csv"
    config.batch_size = 4
    config.model.text.dropout = 0.9
    config.model.image.chunk = 8
    assert bundle.fingerprint(_with(trained, config=config)) == fingerprint
    for key, value in (("image_size", 16), ("text_length", 4)):
        other = trained.config.copy_and_resolve_references()
        other.data[key] = value
        assert bundle.fingerprint(_with(trained, config=other)) != fingerprint
    scaled = {"params": {"scale": trained.variables["params"]["scale"] * 2}}
    assert bundle.fingerprint(_with(trained, variables=scaled)) != fingerprint


def _with(trained, **changes):
    import dataclasses

    return dataclasses.replace(trained, **changes)


def test_a_newer_format_raises_an_error(made):
    change_config(made, format=bundle.FORMAT + 1)
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    with pytest.raises(UserError, match="install a newer version") as raised:
        mixer_jax.load(made)
    assert str(raised.value) == (
        f"The bundle {made} has format 2, but this version of mixer_jax "
        "reads only formats up to 1; install a newer version, or export it "
        "again with `python -m mixer_jax.export`."
    )
    after = {path.name: path.read_bytes() for path in made.iterdir()}
    assert after == before


def test_every_command_refuses_a_newer_bundle(
    made, trained, colors, tmp_path, capsys
):
    table = f"--table={colors[0] / 'colors.csv'}"
    model = f"--workdir={made}"
    assert (
        index.main(["build", model, table, f"--out={tmp_path / 'index'}"]) == 0
    )
    change_config(made, format=bundle.FORMAT + 1)
    for command, *arguments in (
        (embed, model, table, f"--out={tmp_path / 'out.npz'}"),
        (index, "build", model, table, f"--out={tmp_path / 'out'}"),
        (evaluate, model, table, f"--out={tmp_path / 'out.json'}"),
        (export, model, f"--out={tmp_path / 'out'}"),
        (export, model, "--to=proxies", f"--out={tmp_path / 'out'}"),
        (export, model, "--to=huggingface", f"--out={tmp_path / 'out'}"),
        # An accepted bundle would cause an error about the port.
        (serve, f"--index={tmp_path / 'index'}", "--port=70000"),
    ):
        assert command.main(arguments) == 2
        error = capsys.readouterr().err
        assert f"error: The bundle {made} has format 2, but" in error
        assert "Traceback" not in error
    assert not list(tmp_path.glob("out*"))
    # It can be written again, as the message says.
    bundle.write(trained, made)
    mixer_jax.load(made)


@pytest.mark.parametrize("name", bundle.KIND.names[:3])
def test_damaged_files_raise_an_error(made, name):
    content = (made / name).read_bytes()
    for damaged in (b"", content[:-9], content[: len(content) // 2], None):
        (made / name).unlink(missing_ok=True)
        if damaged is not None:
            (made / name).write_bytes(damaged)
        with pytest.raises(UserError, match="is damaged"):
            mixer_jax.load(made)
    (made / name).write_bytes(content)
    mixer_jax.load(made)


def test_changed_weights_raise_an_error(made):
    path = made / bundle.WEIGHTS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="do not match its fingerprint"):
        mixer_jax.load(made)


def test_an_invalid_config_raises_an_error(made):
    for values in (
        {"format": 0},
        {"format": "1"},
        {"format": True},
        {"format": None},
        {"config": 3},
        {"config": {"evaluate": {"batch_size": 0}}},
        {"config": {"evaluate": {"split": 3}}},
        {"config": {"data": {"temperature": 10**400}}},
        {"step": "x"},
    ):
        kept = (made / bundle.CONFIG).read_text()
        change_config(made, **values)
        with pytest.raises(UserError, match="is damaged"):
            mixer_jax.load(made)
        (made / bundle.CONFIG).write_text(kept)


def test_a_folder_with_other_contents_is_not_replaced(trained, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    with pytest.raises(UserError, match="contents other than the bundle"):
        bundle.write(trained, tmp_path / "mine")
    assert (tmp_path / "mine" / "letter.txt").read_text() == "keep me"


def test_the_card_lists_the_metrics_of_the_stage(color_run, tmp_path):
    row = dict(
        model="mixer",
        stage="stage2",
        split="test",
        gallery="test",
        queries=8,
        documents=9,
        identical_at_1=0.4567,
        relevance_at_1=None,
    )
    rows = [row, row | {"model": "other", "identical_at_1": 0.9}]
    (color_run / "metrics.json").write_text(json.dumps(rows))
    trained, measures = model.load_measured(color_run)
    bundle.write(trained, tmp_path / "bundle", measures)
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "| stage2 | test | test | 8 | 9 | 45.7% | - | - |" in card
    assert "90.0%" not in card
    assert "license: unknown" in card
    assert "arXiv 2305.03972" in card


def test_a_calibration_survives_export_and_copies(color_run, tmp_path):
    curve = calibration.Curve((0.1, 0.9), (0.05, 0.8))
    known = calibration.Calibration(curve, curve, 120, 40, 0.0123, 0.0456, 4)
    row = dict(model="mixer", stage="stage2", split="test", gallery="test")
    row |= dict(queries=120, documents=40, identical_at_1=0.5)
    path = color_run / "metrics.json"
    path.write_text(json.dumps([row | {"calibration": known._asdict()}]))
    trained, measures = model.load_measured(color_run)
    known = known._replace(step=trained.step)
    measures[0]["calibration"]["step"] = trained.step
    bundle.write(trained, tmp_path / "bundle", measures)
    found = mixer_jax.load(tmp_path / "bundle")
    assert found.calibration == known
    found.save(tmp_path / "copy")
    assert mixer_jax.load(tmp_path / "copy").calibration == known
    card = " ".join((tmp_path / "copy" / "README.md").read_text().split())
    assert "calibration error is **1.2%**, and **4.6%** for nearest" in card
    assert "120 queries, in a catalog of 40 documents" in card
    measures[0]["calibration"]["step"] += 1  # trained further since
    bundle.write(trained, tmp_path / "later", measures)
    assert mixer_jax.load(tmp_path / "later").calibration is None
    change_config(tmp_path / "copy", calibration={"cosines": [1]})
    with pytest.raises(UserError, match="is damaged"):
        mixer_jax.load(tmp_path / "copy")


def test_a_name_that_is_neither_folder_nor_on_the_hub_raises_an_error(tmp_path):
    with pytest.raises(UserError, match="There is no folder nobody/nothing"):
        mixer_jax.load("nobody/nothing")


def _embed_as_nobody(folder, pictures):
    """Embeds queries in a process of another user, if run as root."""
    # Import before changing the user: the modules may be readable only by root.
    program = (
        "import os, sys, jax, numpy as np, mixer_jax; "
        "jax.devices(), mixer_jax.load; "
        "os.getuid() or (os.setgid(65534), os.setuid(65534)); "
        f"model = mixer_jax.load({str(folder)!r}); "
        f"pictures = np.load({str(pictures)!r}); "
        "sys.stdout.buffer.write(model.embed_queries(pictures).tobytes())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd="/",
        env={
            "PYTHONPATH": str(pathlib.Path(mixer_jax.__file__).parents[1]),
            "HF_HUB_OFFLINE": "1",
            "JAX_PLATFORMS": "cpu",
            "HOME": "/nonexistent",
        },
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    return np.frombuffer(done.stdout, np.float32).reshape(len(PICTURES), -1)


@pytest.mark.slow
def test_another_user_can_load_a_copy_in_an_empty_environment(tmp_path):
    """Exports a real model, copies it, deletes the original, loads the copy."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o777 == 0o700:  # by pytest
            folder.chmod(0o755)
    source = mixer_jax.from_encoders(image_size=64)
    source.save(tmp_path / "origin")
    pictures, copy = tmp_path / "pictures.npy", tmp_path / "other" / "copy"
    np.save(pictures, PICTURES)
    expected = _embed_as_nobody(tmp_path / "origin", pictures)
    np.testing.assert_allclose(
        expected, source.embed_queries(PICTURES), atol=1e-5
    )
    shutil.copytree(tmp_path / "origin", copy)
    shutil.rmtree(tmp_path / "origin")
    np.testing.assert_array_equal(_embed_as_nobody(copy, pictures), expected)


def test_every_command_that_takes_a_model_accepts_a_bundle(
    made, colors, color_run, tmp_path, capsys
):
    root, _ = colors
    table, results = f"--table={root / 'colors.csv'}", {}
    for name, folder in (("ours", made), ("theirs", color_run / "stage2")):
        out = tmp_path / name
        model = [f"--workdir={folder}", table]
        assert embed.main([*model, f"--out={out}.npz"]) == 0
        assert index.main(["build", *model, f"--out={out}"]) == 0
        assert evaluate.main([*model, f"--out={out}.json"]) == 0
        with np.load(f"{out}.npz") as arrays:
            results[name] = [arrays["document_embeddings"]]
        with opening.open_with(out) as opened:
            results[name].append(_embeddings(opened))
        rows = json.loads(pathlib.Path(f"{out}.json").read_text())
        results[name].append([row["map"] for row in rows])
    for ours, theirs in zip(*results.values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # Either index can be opened with the bundle at its new path.
    made.rename(tmp_path / "moved")
    shutil.rmtree(color_run)
    for name in ("ours", "theirs"):
        given = {"workdir": tmp_path / "moved"}
        with opening.open_with(tmp_path / name, **given) as opened:
            assert opened.model.step == 4
    assert evaluate.main([f"--workdir={tmp_path / 'moved'}"]) == 2
    assert "with --table=PATH" in capsys.readouterr().err


def _embeddings(index):
    (items,) = index.store.iterate(100)
    return np.stack([item.vectors[0].embedding for item in items])


def test_a_deeply_nested_config_raises_an_error(made):
    (made / bundle.CONFIG).write_text("[" * 100_000)
    with pytest.raises(UserError, match="is damaged"):
        mixer_jax.load(made)


def test_a_model_of_another_library_is_not_a_bundle(made, color_run):
    (made / bundle.CONFIG).write_text('{"model_type": "bert"}')
    assert not bundle.is_bundle(made)
    (made / bundle.CONFIG).write_text("{")
    assert bundle.is_bundle(made)  # a damaged one
    weights = color_run / "stage2" / bundle.WEIGHTS
    weights.write_text("exported by hand")
    assert not bundle.is_bundle(color_run / "stage2")
