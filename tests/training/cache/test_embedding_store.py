"""Stored embeddings replace the samples if only the proxies are trained."""

import io
import json

import jax
import numpy as np
import pytest

from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.training import initialize, inputs, setup
from mixer_jax.training.cache import array_files, embedding_store
from mixer_jax.training.checkpoint import checkpoints


@pytest.fixture
def frozen_config(cached_config):
    """A stage that trains only the proxies."""
    cached_config.optimizer.parts = (("", 0.0),)
    cached_config.proxies.init = "imprint"
    return cached_config


@pytest.fixture
def stage(make_stage, frozen_config):
    return make_stage(frozen_config, embedding_store)


def test_stored_embeddings_match_the_model(stage):
    run, variables, make = stage
    store = make()
    pictures = inputs.Pictures(
        inputs.load(run.config.data, prepare=True), run.config
    )
    rows = np.arange(len(run.inputs.samples))
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


@pytest.mark.slow
def test_training_on_embeddings_matches_training_on_samples(
    frozen_config, tmp_path, train
):
    kept = train(frozen_config, "kept")
    frozen_config.data.cached = False
    read = train(frozen_config, "read")
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


@pytest.mark.slow
def test_stage_resumes_and_loads_as_a_model(
    frozen_config, tmp_path, train, train_with_interruption
):
    whole = train(frozen_config, "whole")
    resumed = train_with_interruption(frozen_config, "parts")
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
