"""Proxies resume on different devices and with different categories."""

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console

from mixer_jax.proxies.interface import HeadInput
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.training import initialize, inputs, setup
from mixer_jax.training import state as state_lib
from mixer_jax.training.checkpoint import row_files
from mixer_jax.training.checkpoint import workdir as workdir_lib
from mixer_jax.training.checkpoint.checkpoints import Checkpoints

COUNT = 13  # not divisible by any number of devices above 1


@pytest.fixture
def make_run(toy, tiny_config, tmp_path):
    """Creates a stage with 13 categories on a number of devices."""
    path = toy.write_table(tmp_path / "table", COUNT)
    tiny_config.data.table = str(path)
    tiny_config.head.scale = 8.0

    def make(num_devices):
        mesh = mesh_lib.make_mesh(jax.devices()[:num_devices])
        return setup.make(tiny_config, tmp_path / "new", mesh)

    return make


def take_step(run, state):
    """Takes one step of the head on a fixed batch."""
    rng = np.random.default_rng(3)
    size, dim = run.config.batch_size, run.config.model.dim
    batch = {
        "embeddings": rng.normal(size=(size, dim)).astype(np.float32),
        "labels": rng.integers(0, COUNT, size).astype(np.int32),
    }

    @jax.jit
    def step(state, batch, key):
        return run.head.step(
            run.row_optimizer,
            HeadInput(
                proxies=state.proxies,
                embeddings=batch["embeddings"],
                labels=batch["labels"],
                key=key,
                graph=state.graph,
                moments=state.proxy_state,
                learning_rate=0.1,
            ),
        )

    batch = jax.device_put(batch, mesh_lib.rows(run.mesh))
    return step(state, batch, jax.random.key(5))


def trained_state(run):
    """Returns a state in which every row differs from its initial value."""
    variables = initialize.initial_variables(run)
    state = initialize.initial_state(run, variables, None)
    for _ in range(2):
        out = take_step(run, state)
        state = state.replace(proxies=out.proxies, proxy_state=out.moments)
    graph = run.head.build_graph(state.proxies)
    return state.replace(step=jnp.int32(2), graph=graph)


def real_rows(state):
    rows = (state.proxies, state.proxy_state, state.graph)
    return jax.tree.map(lambda x: np.asarray(x)[:COUNT], rows)


def save(folder, state):
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(2, state, {"next": 1}, force=True)


def restore(folder, run):
    with Checkpoints(folder) as checkpoints:
        return checkpoints.restore(run.state)[0]


def unsplit(run, state):
    """Returns the same rows on one device, without saving them."""
    state = jax.device_get(state)
    cut = functools.partial(jax.tree.map, lambda x: x[:COUNT])
    state = state.replace(
        proxies=cut(state.proxies),
        proxy_state=cut(state.proxy_state),
        graph=cut(state.graph),
    )
    return jax.device_put(state, state_lib.shardings(state, run.mesh))


@pytest.mark.slow
@pytest.mark.parametrize(("head", "chunk"), [("exact", 2**26), ("knn", 150)])
def test_rows_and_loss_do_not_depend_on_the_devices(
    make_run, tiny_config, tmp_path, monkeypatch, head, chunk
):
    monkeypatch.setattr(row_files, "CHUNK", chunk)
    monkeypatch.setattr(row_files, "SMALLEST", 64)
    tiny_config.head.name = head
    run = make_run(8)
    state = trained_state(run)
    rows = real_rows(state)
    assert all(np.any(x) for x in jax.tree.leaves(rows))
    alone = make_run(1)
    wanted = take_step(alone, unsplit(alone, state))
    save(tmp_path / "8", state)
    before = 8
    for after in (4, 2, 1, 8):
        run = make_run(after)
        state = restore(tmp_path / str(before), run)
        assert len(state.proxies) == mesh_lib.padded_rows(COUNT, run.mesh)
        jax.tree.map(np.testing.assert_array_equal, real_rows(state), rows)
        out = take_step(run, state)
        np.testing.assert_allclose(out.loss, wanted.loss, rtol=1e-6)
        np.testing.assert_allclose(
            np.asarray(out.proxies)[:COUNT], wanted.proxies, atol=1e-6
        )
        before = f"{before}-{after}"
        save(tmp_path / before, state)


@pytest.mark.slow
def test_small_active_set_is_reproducible_on_equal_devices(
    make_run, tiny_config, tmp_path
):
    # Each device selects its own rows, so the loss depends on the mesh size.
    tiny_config.head.update({"name": "knn", "active": 0.7, "uniform": 0.3})
    tiny_config.batch_size = 8
    run = make_run(1)
    state = trained_state(run)
    wanted = take_step(run, state)
    save(tmp_path / "1", state)
    tiny_config.head.active = 1.0
    save(tmp_path / "2", restore(tmp_path / "1", make_run(2)))
    found = restore(tmp_path / "2", run)
    jax.tree.map(np.testing.assert_array_equal, found, state)
    assert take_step(run, found).loss == wanted.loss


def start(run, config, workdir):
    """Returns the initial state, the output and the embedded rows."""
    output, embedded = io.StringIO(), []
    content = inputs.Pictures(run.inputs, config)

    class Spy:
        def evaluation_batches(self, role, batch_size, rows):
            for batch in content.evaluation_batches(role, batch_size, rows):
                embedded.extend(batch["index"][batch["mask"]].tolist())
                yield batch

    variables = initialize.initial_variables(run)
    state = initialize.initial_state(
        run, variables, Spy(), rich.console.Console(file=output, width=500)
    )
    return state, output.getvalue(), embedded


@pytest.mark.slow
@pytest.mark.parametrize(("after", "limit"), [(1, 0), (8, 1)])
def test_new_categories_are_imprinted_and_others_copied(
    make_run, tiny_config, tmp_path, after, limit
):
    tiny_config.proxies.init = "imprint"
    tiny_config.proxies.imprint_samples = limit
    run = make_run(after)
    means, output, embedded = start(run, tiny_config, tmp_path)
    count = 2 * COUNT * (limit or 2)
    assert output == (
        f"stage1: embedding {count} samples; "
        "proxies start as their categories' means\n"
    )
    assert len(embedded) == count

    # A stage with reordered categories, two of them new.
    ids = list(run.inputs.samples.category_ids)
    old = [f"gone{i}" for i in range(5)] + ids[:2:-1] + ["gone", ids[1]]
    before = tmp_path / "before"
    workdir_lib.prepare(before, tiny_config, old)
    mesh = mesh_lib.make_mesh(jax.devices()[:4])
    rows = np.zeros((mesh_lib.padded_rows(len(old), mesh), 16), np.float32)
    rows[: len(old)] = np.random.default_rng(0).normal(size=(len(old), 16))
    saved = means.replace(
        proxies=rows, proxy_state={}, graph=None, opt_state={}
    )
    saved = jax.device_get(saved)
    save(before, jax.device_put(saved, state_lib.shardings(saved, mesh)))
    tiny_config.init_from = str(before)
    tiny_config.name = "stage2"
    run = make_run(after)
    state, output, embedded = start(run, tiny_config, tmp_path)
    kept = {name: rows[place] for place, name in enumerate(old)}
    for row, name in enumerate(ids):
        want = kept.get(name, np.asarray(means.proxies)[row])
        np.testing.assert_allclose(state.proxies[row], want, atol=1e-6)
        if name in kept:
            np.testing.assert_array_equal(state.proxies[row], want)
    assert not np.any(state.proxies[COUNT:])
    new = np.isin(run.inputs.samples.labels, [0, 2])
    assert new[embedded].all()
    assert len(embedded) == 2 * 2 * (limit or 2)
    assert output == (
        f"stage2: 11 proxies come from {before}; "
        "2 categories are new, 6 removed\n"
        f"stage2: embedding {len(embedded)} samples; "
        "new proxies start as their categories' means\n"
    )


def test_reordered_categories_are_not_imprinted(
    make_run, tiny_config, tmp_path
):
    run = make_run(2)
    means, _, _ = start(run, tiny_config, tmp_path)
    order = np.random.default_rng(0).permutation(COUNT)
    before = tmp_path / "before"
    ids = np.array(list(run.inputs.samples.category_ids))[order].tolist()
    workdir_lib.prepare(before, tiny_config, ids)
    moved = np.asarray(means.proxies)[:COUNT][order]
    save(before, means.replace(proxies=jnp.asarray(moved), graph=None))
    tiny_config.init_from = str(before)
    tiny_config.proxies.init = "imprint"
    state, output, embedded = start(make_run(2), tiny_config, tmp_path)
    np.testing.assert_array_equal(state.proxies, means.proxies)
    assert not embedded
    assert output.endswith("0 categories are new, 0 removed\n")
