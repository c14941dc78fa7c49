"""Stored token vectors replace the tokens if the text encoder is frozen."""

import contextlib
import io

import jax
import numpy as np
import pytest

from mixer_jax.data.tables import table
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime.errors import UserError
from mixer_jax.training import abstract_step, inputs, setup
from mixer_jax.training.cache import text_vectors


@pytest.fixture
def text_config(cached_config):
    """A stage that trains the image encoder, but not the text encoder."""
    cached_config.data.cached = False
    cached_config.data.cached_text = True
    cached_config.data.augment = "light"
    cached_config.model.text.dropout = 0.0
    cached_config.optimizer.parts = (("text_encoder", 0.0),)
    return cached_config


@pytest.fixture
def stage(make_stage, text_config):
    return make_stage(text_config, text_vectors)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_training_batches_match_those_with_tokens(stage, workers):
    run, variables, make = stage
    config = run.config.copy_and_resolve_references()
    config.data.workers = workers
    kept = inputs.Pictures(run.inputs, config, make()).train_batches()
    read = inputs.Pictures(run.inputs, run.config).train_batches()
    with contextlib.closing(kept):
        for _ in range(3):
            one, other = next(kept), next(read)
            assert "tokens" not in one["document"]
            jax.tree.map(
                np.testing.assert_array_equal, one["query"], other["query"]
            )
            for name in ("image", "has_image", "label", "token_mask"):
                np.testing.assert_array_equal(
                    one["document"][name], other["document"][name]
                )
            want, got = (
                run.model.apply(
                    variables, batch["document"], method="encode_document"
                )
                for batch in (other, one)
            )
            np.testing.assert_allclose(got, want, atol=0.02)


def test_evaluation_batches_match_those_with_tokens(stage):
    run, variables, make = stage
    rows = np.arange(len(run.inputs.samples))
    contents = [
        inputs.Pictures(run.inputs, run.config, vectors)
        for vectors in (make(), None)
    ]
    for one, other in zip(
        *(x.evaluation_batches(table.DOCUMENT, 10, rows) for x in contents),
        strict=True,
    ):
        mask = one["mask"]
        got, want = (
            run.model.apply(
                variables, batch[table.DOCUMENT], method="encode_document"
            )
            for batch in (one, other)
        )
        np.testing.assert_allclose(got[mask], want[mask], atol=0.02)
        without = ~other[table.DOCUMENT]["token_mask"].any(1)
        assert not one[table.DOCUMENT]["token_vectors"][without].any()


def test_each_text_is_encoded_once(stage, monkeypatch):
    run, variables, make = stage
    output, encoded = io.StringIO(), []
    encode = text_vectors._encode

    def spy(inputs, rows, *rest):
        encoded.extend(inputs.source.text(row) for row in rows)
        return encode(inputs, rows, *rest)

    monkeypatch.setattr(text_vectors, "_encode", spy)
    make(output=output)
    texts = {run.inputs.source.text(i) for i in range(len(run.inputs.source))}
    assert len(encoded) == 12
    assert set(encoded) == texts - {""}
    assert "encoding 12 texts once" in output.getvalue()
    make()
    assert len(encoded) == 12
    # Only changes to the text encoder matter.
    params = variables["params"]
    moved = jax.tree.map(lambda x: x + 0.5, params["image_encoder"])
    make(variables | {"params": params | {"image_encoder": moved}})
    assert len(encoded) == 12
    moved = jax.tree.map(lambda x: x + 0.5, params["text_encoder"])
    make(variables | {"params": params | {"text_encoder": moved}})
    assert len(encoded) == 24


def test_the_step_is_planned_with_the_shapes_of_its_batches(stage):
    run, _, make = stage
    planned = abstract_step.make_batch(run)
    batch = next(
        inputs.Pictures(run.inputs, run.config, make()).train_batches()
    )

    def describe(leaf):
        return leaf.shape, leaf.dtype

    assert jax.tree.map(describe, planned) == jax.tree.map(describe, batch)


@pytest.mark.slow
def test_stage_resumes_exactly(text_config, train, train_with_interruption):
    whole = train(text_config, "whole")
    resumed = train_with_interruption(text_config, "parts")
    jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)
    np.testing.assert_array_equal(resumed.proxies, whole.proxies)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer.parts": ()}, r"cached_text needs a frozen text_encoder"),
        ({"model.text.dropout": 0.1}, r"model\.text\.dropout cannot be 0\.1"),
    ],
)
def test_unsuitable_settings_are_rejected(
    text_config, tmp_path, changes, message
):
    text_config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        setup.make(text_config, tmp_path, mesh_lib.make_mesh())
