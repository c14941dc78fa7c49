"""Stored embeddings replace the samples if only the proxies are trained."""

import io
import json
import shutil

import jax
import numpy as np
import pytest
import rich.console

from mixer_jax.data.tables import table
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime.errors import UserError
from mixer_jax.training import initialize, inputs, loop, setup
from mixer_jax.training.cache import array_files, embedding_store
from mixer_jax.training.checkpoint import checkpoints


@pytest.fixture
def frozen_config(toy, tiny_config, tmp_path):
    """A stage that trains only the proxies, on a table with empty cells."""
    path = toy.write_table(tmp_path / "table")
    frame = table.read_table(path)
    documents = np.flatnonzero(frame["role"] == table.DOCUMENT)
    frame.loc[documents[0], "text"] = ""
    frame.loc[documents[1], "image"] = ""
    table.write_table(frame, path)
    tiny_config.data.table = str(path)
    tiny_config.data.augment = "none"
    tiny_config.model.image.batch_norm = "frozen"
    tiny_config.optimizer.parts = (("", 0.0),)
    tiny_config.proxies.init = "imprint"
    tiny_config.evaluate.batch_size = 8
    return tiny_config


@pytest.fixture
def stage(frozen_config, tmp_path):
    """(run, variables, make): `make()` creates the store."""
    mesh = mesh_lib.make_mesh(jax.devices()[:2])
    frozen_config.data.cached = True
    run = setup.make(frozen_config, tmp_path / "stage", mesh)
    variables = initialize.initial_variables(run)

    def make(variables=variables, output=None):
        return embedding_store.make(
            tmp_path / "features",
            run.inputs,
            run.config,
            run.model,
            variables,
            mesh,
            rich.console.Console(file=output or io.StringIO(), width=200),
        )

    return run, variables, make


def train(config, folder, devices=2):
    mesh = mesh_lib.make_mesh(jax.devices()[:devices])
    console = rich.console.Console(file=io.StringIO())
    return loop.train(config, folder, mesh, console)


def test_stored_embeddings_match_the_model(stage):
    run, variables, make = stage
    store = make()
    pictures = inputs.Pictures(run.inputs, run.config)
    rows = np.arange(len(run.inputs.frame))
    seen = 0
    for role in embedding_store.ROLES:
        for kept, read in zip(
            store.evaluation_batches(role, 10, rows),
            pictures.evaluation_batches(role, 10, rows),
            strict=True,
        ):
            np.testing.assert_array_equal(kept["index"], read["index"])
            mask = kept["mask"]
            expected = run.model.apply(
                variables, read[role], method=f"encode_{role}"
            )
            np.testing.assert_allclose(
                kept[role]["embedding"][mask], expected[mask], atol=1e-5
            )
            assert not kept[role]["embedding"][~mask].any()
            seen += mask.sum()
    assert seen == len(rows)


def test_training_on_embeddings_matches_training_on_samples(
    frozen_config, tmp_path
):
    read = train(frozen_config, tmp_path / "read")
    frozen_config.data.cached = True
    kept = train(frozen_config, tmp_path / "kept")
    jax.tree.map(np.testing.assert_array_equal, kept.params, read.params)
    np.testing.assert_allclose(kept.proxies, read.proxies, atol=1e-4)
    start = initialize.initial_variables(
        setup.make(frozen_config, tmp_path / "other", mesh_lib.make_mesh())
    )
    jax.tree.map(np.testing.assert_array_equal, kept.params, start["params"])
    losses = [
        json.loads(line)["loss"]
        for line in (tmp_path / "kept/metrics.jsonl").read_text().splitlines()
        if '"loss"' in line
    ]
    assert losses[-1] < losses[0]


def test_stage_resumes_and_loads_as_a_model(
    frozen_config, tmp_path, monkeypatch
):
    frozen_config.data.cached = True
    whole = train(frozen_config, tmp_path / "whole")
    save = checkpoints.Checkpoints.save

    def die(self, step, *args, **kwargs):
        save(self, step, *args, **kwargs)
        if step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Checkpoints, "save", die)
        with pytest.raises(KeyboardInterrupt):
            train(frozen_config, tmp_path / "parts")
    resumed = train(frozen_config, tmp_path / "parts")
    np.testing.assert_array_equal(resumed.proxies, whole.proxies)
    assert checkpoints.load_model(tmp_path / "parts").step == 8


def test_only_missing_embeddings_are_computed(stage, tmp_path, monkeypatch):
    _, variables, make = stage
    monkeypatch.setattr(array_files, "BLOCK", 8 * 16 * 4)  # 8 embeddings
    first = make()
    rows = np.arange(4)
    embedded = []
    embed = embedding_store._embed

    def spy(role, *rest):
        embedded.append((role, len(rest[-1])))
        return embed(role, *rest)

    monkeypatch.setattr(embedding_store, "_embed", spy)
    make()
    assert not embedded
    path = tmp_path / "features/document.npy"
    damaged = np.load(path, mmap_mode="r+")
    damaged[:1] = 7
    damaged.flush()
    output = io.StringIO()
    again = make(output=output)
    assert embedded == [("document", 8)]
    assert "damaged" in output.getvalue()
    np.testing.assert_array_equal(again._arrays["document"][0] == 7, False)
    # A change to any parameter recomputes the embeddings.
    layers = jax.tree.map(
        lambda x: x + 0.5, variables["params"]["query_layers"]
    )
    params = variables["params"] | {"query_layers": layers}
    other = make(variables | {"params": params})
    assert {role for role, _ in embedded} == set(embedding_store.ROLES)
    assert np.any(
        other.batch(rows, "query")["embedding"]
        != first.batch(rows, "query")["embedding"]
    )


def test_full_disk_error_states_needed_and_free_space(
    stage, monkeypatch, tmp_path
):
    _, _, make = stage
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"need .* GB in .*0\.00 GB free"):
        make()
