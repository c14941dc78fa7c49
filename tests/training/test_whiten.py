"""Towers whose maps of the image are fitted to pairs of training samples."""

import jax
import numpy as np
import pandas as pd
import pytest

from mixer_jax.data.tables import samples as samples_lib
from mixer_jax.data.tables import table
from mixer_jax.models import whitening
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime.errors import UserError
from mixer_jax.training import initialize, inputs, setup, whiten
from tests import tiny_models


@pytest.fixture
def config(tiny_config, monkeypatch):
    tiny_models.add_encoders(monkeypatch.setitem)
    tiny_config.model.image.name = tiny_config.model.text.name = "tiny"
    tiny_config.model.image.batch_norm = "frozen"
    tiny_config.model.init = "whitened"
    tiny_config.data.augment = "none"
    tiny_config.evaluate.batch_size = 8
    return tiny_config


def start(config, folder, mesh=None):
    run = setup.make(config, folder, mesh or mesh_lib.make_mesh())
    content = inputs.Pictures(run.inputs, config)
    variables = initialize.initial_variables(run)
    return run, content, variables


def test_the_moments_are_those_of_the_pairs(config, tmp_path, num_devices):
    mesh = mesh_lib.make_mesh(jax.devices()[:num_devices])
    run, content, variables = start(config, tmp_path, mesh)
    params = whiten.whiten(run, content, variables, print)["params"]
    encoded = []
    rows = whiten.pairs(run.inputs.samples, whiten.PAIRS, config.seed)
    for role, part in zip(samples_lib.ROLES, rows, strict=True):
        batches = content.evaluation_batches(role, 8, part)
        images = [b[role]["image"][b["mask"]] for b in batches]
        patches = run.model.apply(
            jax.device_get(variables),
            np.concatenate(images),
            method="encode_images",
        )
        encoded.append(np.asarray(patches).mean(1))
    assert len(encoded[0]) >= 12  # categories
    moments = whitening.add(
        whitening.start(8), *encoded, np.full(len(encoded[0]), True)
    )
    old = jax.device_get(variables["params"])
    found = whitening.solve(moments, old["query_layers"]["linear"]["kernel"])
    expected = whitening.apply(old, found)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        jax.device_get(params),
        expected,
    )


def test_both_towers_start_with_the_same_map(config, tmp_path):
    run, content, variables = start(config, tmp_path)
    variables = initialize.initial_state(run, variables, content).variables
    rows = whiten.pairs(run.inputs.samples, 24, config.seed)
    (query,) = content.evaluation_batches("query", 24, rows[0])
    patches = run.model.apply(
        variables, query["query"]["image"], method="encode_images"
    )
    count = len(patches)
    document = {
        "patches": patches,
        "has_image": np.full(count, True),
        "token_mask": np.zeros((count, 8), bool),
        "tokens": np.zeros((count, 8), np.int32),
    }
    encode = jax.jit(run.model.apply, static_argnames="method")
    first = encode(variables, {"patches": patches}, method="encode_query")
    second = encode(variables, document, method="encode_document")
    # The towers differ by the means of their roles only.
    fusion = variables["params"]["fusion"]["image"]["bias"]
    layers = variables["params"]["query_layers"]["out"]["bias"]
    kernel = variables["params"]["query_layers"]["linear"]["kernel"]
    plain = np.asarray(patches).mean(1) @ np.asarray(kernel)
    for found, bias in ((first, layers), (second, fusion)):
        expected = plain + np.asarray(bias)[None]
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_stage_after_another_keeps_its_towers(config, tmp_path, monkeypatch):
    run, content, variables = start(config, tmp_path)
    config.init_from = "another"

    def fail(*_):
        raise AssertionError("the towers were whitened")

    monkeypatch.setattr(whiten, "whiten", fail)
    none = np.full(run.inputs.samples.num_categories, -1, np.int32)
    monkeypatch.setattr(initialize, "_previous_rows", lambda *_: none)
    monkeypatch.setattr(
        initialize.row_loading, "load_proxies", lambda _, proxies, __: proxies
    )
    state = initialize.initial_state(run, variables, content)
    assert np.any(np.asarray(state.proxies))


def test_frozen_models_are_refused_before_anything_is_computed(
    config, tmp_path
):
    config.optimizer.parts = (("", 0.0),)
    with pytest.raises(UserError, match="freezes all parameters"):
        setup.make(config, tmp_path, mesh_lib.make_mesh())


@pytest.mark.parametrize("image", ["", "query-0-0.png"])
def test_towers_stay_random_without_different_images(config, tmp_path, image):
    frame = table.read_table(config.data.table)
    folder = table.folder(config.data.table)
    if image:  # Each document shows its category's first query.
        names = "query-" + frame["category_id"].str[1:].astype(int).astype(str)
        frame["image"] = names + "-0.png"
    else:
        frame.loc[frame["role"] == table.DOCUMENT, "image"] = ""
    images = [str(folder / name) if name else "" for name in frame["image"]]
    table.write_table(frame.assign(image=images), tmp_path / "table.csv")
    config.data.table = str(tmp_path / "table.csv")
    run, content, variables = start(config, tmp_path / "run")
    said = []
    found = whiten.whiten(run, content, variables, said.append)
    assert found is variables
    assert "the towers start at random" in said[0]


def test_pairs_are_of_one_category_and_differ():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "category_id": rng.integers(0, 30, 200).astype(str),
            "role": rng.choice([table.QUERY, table.DOCUMENT], 200),
            "image": rng.permutation(200).astype(str),
            "text": "",
        }
    )
    frame.loc[frame["category_id"] == "7", "role"] = table.QUERY
    # Two pictures that are queries and documents, and a document without one.
    frame.loc[frame["category_id"] == "8", "image"] = "same"
    both = pd.DataFrame(
        [
            (category, role, image, "")
            for category, images in (("twice", "ab"), ("once", ["c", ""]))
            for role, image in [
                (table.QUERY, images[0]),
                (table.DOCUMENT, images[1]),
                (table.DOCUMENT, images[0]),
                (table.QUERY, images[1] or "d"),
            ]
        ],
        columns=frame.columns,
    )
    both = both[both["image"] != "d"]
    frame = pd.concat([frame, both], ignore_index=True)
    samples = samples_lib.from_frame(frame)
    query, document = whiten.pairs(samples, 1000, seed=0)
    assert not samples.is_document[query].any()
    assert samples.is_document[document].all()
    labels = samples.labels[query]
    np.testing.assert_array_equal(labels, samples.labels[document])
    ids = [samples.category_ids[label] for label in labels]
    assert set(ids) == set(frame["category_id"]) - {"7", "8", "once"}
    assert ids.count("twice") == 1
    shown = np.sort(samples.images[np.stack([query, document])], axis=0)
    assert (shown[0] >= 0).all()
    assert (shown[0] < shown[1]).all()
    assert len(np.unique(shown, axis=1)[0]) == len(labels) > 60
    # Every category comes once before one comes again.
    assert len(set(ids[:29])) == 29
    few, _ = whiten.pairs(samples, 5, seed=0)
    assert len(few) == 5
    assert np.any(few != whiten.pairs(samples, 5, seed=1)[0])


def test_a_run_starts_with_whitened_towers(config, tmp_path):
    """The factory's parameters are those that `whitening.apply` replaces."""
    run, content, variables = start(config, tmp_path)
    del run, content
    found = whitening.Whitening(
        np.ones((8, config.model.dim), np.float32),
        np.ones(8, np.float32),
        np.ones(8, np.float32),
    )
    params = jax.device_get(variables["params"])
    applied = whitening.apply(params, found)
    assert jax.tree.structure(applied) == jax.tree.structure(params)
    for old, new in zip(
        jax.tree.leaves(params), jax.tree.leaves(applied), strict=True
    ):
        assert (old.shape, old.dtype) == (new.shape, new.dtype)
