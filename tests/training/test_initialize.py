"""The initial state of a stage."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from mixer_jax.data.stream import pipeline
from mixer_jax.data.tables import table
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.training import initialize, inputs, setup
from mixer_jax.training.checkpoint import workdir as workdir_lib
from mixer_jax.training.checkpoint.checkpoints import Checkpoints


@pytest.fixture
def mesh():
    return mesh_lib.make_mesh(jax.devices()[:2])


def start(config, folder, mesh):
    run = setup.make(config, folder, mesh)
    content = inputs.Pictures(run.inputs, config)
    variables = initialize.initial_variables(run)
    return run, initialize.initial_state(run, variables, content)


def test_initial_state_has_the_abstract_layout(
    toy, tiny_config, tmp_path, mesh
):
    tiny_config.head.name = "knn"
    run, state = start(tiny_config, tmp_path, mesh)
    for want, got in zip(
        jax.tree.leaves(run.state), jax.tree.leaves(state), strict=True
    ):
        assert (want.shape, want.dtype) == (got.shape, got.dtype)
        assert got.sharding.is_equivalent_to(want.sharding, got.ndim)


def test_proxies_depend_on_the_seed(toy, tiny_config, tmp_path, mesh):
    def proxies(seed):
        tiny_config.seed = seed
        return np.asarray(start(tiny_config, tmp_path, mesh)[1].proxies)

    np.testing.assert_array_equal(proxies(0), proxies(0))
    assert np.any(proxies(0) != proxies(1))


@pytest.mark.parametrize("limit", [0, 1])
def test_imprinted_proxies_are_mean_embeddings(
    toy, tiny_config, tmp_path, mesh, limit
):
    tiny_config.proxies.init = "imprint"
    tiny_config.proxies.imprint_samples = limit
    run, state = start(tiny_config, tmp_path, mesh)
    variables = state.variables
    variables = jax.device_get(variables)
    sums = np.zeros((12, 16))
    for role in (table.QUERY, table.DOCUMENT):
        (batch,) = pipeline.evaluation_batches(
            run.inputs.source,
            role,
            run.inputs.tokenizer,
            image_size=16,
            batch_size=24,
            rows=run.inputs.samples.of_role(role),
        )
        embeddings = run.model.apply(
            variables, batch[role], method=f"encode_{role}"
        )
        samples = run.inputs.samples
        labels = samples.labels
        pairs = pd.DataFrame({"label": labels, "role": samples.is_document})
        repeated = pairs.duplicated().to_numpy()
        counted = ~repeated[batch["index"]] if limit else np.full(24, True)
        assert counted.sum() == (12 if limit else 24)
        np.add.at(
            sums,
            labels[batch["index"]][counted],
            np.asarray(embeddings)[counted],
        )
    means = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    np.testing.assert_allclose(state.proxies, means, atol=1e-5)


@pytest.mark.parametrize("limit", [0, 1])
@pytest.mark.parametrize("categories", [2, 6, 7])
def test_imprinting_in_blocks_changes_nothing(
    toy, tiny_config, tmp_path, mesh, monkeypatch, limit, categories
):
    tiny_config.proxies.init = "imprint"
    tiny_config.proxies.imprint_samples = limit
    _, whole = start(tiny_config, tmp_path, mesh)
    monkeypatch.setattr(initialize, "_BLOCK", categories)
    shapes = set()
    real = initialize.imprint.add

    def add(sums, *rest):
        shapes.add(sums.shape)
        return real(sums, *rest)

    monkeypatch.setattr(initialize.imprint, "add", add)
    _, state = start(tiny_config, tmp_path, mesh)
    np.testing.assert_array_equal(state.proxies, whole.proxies)
    assert shapes == {(categories // 2 * 2, 16)}


def test_stage_starts_from_the_previous_one(toy, tiny_config, tmp_path, mesh):
    tiny_config.seed = 7
    before = tmp_path / "stage1"
    run, old = start(tiny_config, before, mesh)
    ids = list(reversed(run.inputs.samples.category_ids))[:6]
    workdir_lib.prepare(before, tiny_config, ids)
    with Checkpoints(before) as checkpoints:
        checkpoints.save(
            8, old.replace(proxies=old.proxies[:6], graph=jnp.ones((2, 2))), {}
        )
    tiny_config.seed = 8
    tiny_config.init_from = str(before)
    _, state = start(tiny_config, tmp_path / "stage2", mesh)
    jax.tree.map(
        np.testing.assert_array_equal,
        (state.params, state.batch_stats),
        (old.params, old.batch_stats),
    )
    # The last six categories were the first six before, in reverse order.
    np.testing.assert_array_equal(state.proxies[6:], old.proxies[5::-1])
    assert np.all(np.any(state.proxies[:6] != old.proxies[:6], axis=1))
    assert int(state.step) == 0
