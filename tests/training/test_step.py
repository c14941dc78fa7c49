"""The training step updates the right arrays, on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mixer_jax.proxies import rows as rows_lib
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.training import abstract_step, setup, sharding
from mixer_jax.training import optimizer as optimizer_lib
from mixer_jax.training import state as state_lib
from mixer_jax.training import step as step_lib


class Run:
    """A step and its initial state on a number of devices."""

    def __init__(self, toy, config, num_devices=2):
        self.mesh = mesh_lib.make_mesh(jax.devices()[:num_devices])
        self.toy, self.config = toy, config
        count = toy.categories
        run = setup.assemble(config, count, self.mesh)
        self.model, self.head = run.model, run.head
        variables = toy.init_variables(self.model, config, jax.random.key(0))
        proxies = rows_lib.init_proxies(
            jax.random.key(1), count, config.model.dim, self.mesh
        )
        variables = jax.device_put(variables, mesh_lib.replicated(self.mesh))
        self.state = state_lib.create(
            run.rates,
            run.optimizer,
            run.row_optimizer,
            variables,
            proxies,
            self.head.build_graph(proxies),
            self.mesh,
            average=config.optimizer.average > 0,
            rules=config.sharding,
        )
        self.step = abstract_step.make_step(run)
        self.observe = step_lib.make_observe(
            config, self.model, self.head, count, self.mesh
        )

    def batch(self, seed=0):
        batch = self.toy.make_batch(self.config, seed=seed)
        return mesh_lib.put_batch(batch, self.mesh)

    def train(self, steps):
        """Takes steps; returns the state, on the host, and the losses."""
        losses = []
        for seed in range(steps):
            self.state, metrics = self.step(self.state, self.batch(seed))
            losses.append(float(metrics["loss"]))
        return jax.device_get(self.state), losses


@pytest.fixture
def config(tiny_config):
    return tiny_config


@pytest.mark.slow
def test_average_follows_the_trained_parameters(toy, config):
    config.optimizer.average = 0.3
    config.optimizer.parts = (("text_encoder", 0.0),)
    run = Run(toy, config)
    assert "text_encoder" not in run.state.average
    average = jax.device_get(run.state.average)
    jax.tree.map(
        np.testing.assert_array_equal,
        average,
        optimizer_lib.pick(jax.device_get(run.state.params), average),
    )
    for step in range(5):
        state, _ = run.train(1)
        decay = min(0.3, (1 + step) / (10 + step))
        average = jax.tree.map(
            lambda a, p, decay=decay: decay * a + (1 - decay) * p,
            average,
            optimizer_lib.pick(state.params, average),
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            state.average,
            average,
        )


@pytest.mark.slow
def test_seed_can_be_an_argument(toy, config):
    config.seed = 2**40 + 3
    losses = []
    for seeds in ((), (np.int32(3),), (np.int32(4),)):
        run = Run(toy, config)
        _, metrics = run.step(run.state, run.batch(), *seeds)
        losses.append(float(metrics["loss"]))
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert losses[2] != pytest.approx(losses[0], rel=1e-4)  # by dropout


def test_first_metrics_match_a_dense_computation(toy, config):
    run = Run(toy, config)
    _, metrics = run.step(run.state, run.batch())
    metrics = {name: float(value) for name, value in metrics.items()}
    assert metrics["skipped"] == 0
    np.testing.assert_allclose(metrics["learning_rate"], 0.01, rtol=1e-6)
    # Compute the loss without the head: dense logits, margin, batch mean.
    fresh = Run(toy, config)
    variables = fresh.state.variables
    batch = fresh.batch()
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    apply = jax.jit(
        lambda variables, batch: fresh.model.apply(
            variables,
            batch,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.split(key)[0]},
        )[0]
    )
    outputs = jax.device_get(apply(variables, batch))
    batch = fresh.toy.make_batch(config)
    proxies = np.asarray(fresh.state.proxies)[: toy.categories]
    total = 0.0
    for role in ("query", "document"):
        labels = batch[role]["label"]
        cosine = outputs[role] @ proxies.T
        own = np.eye(toy.categories)[labels]
        logits = config.head.scale * (cosine - config.head.margin_size * own)
        total += optax.softmax_cross_entropy_with_integer_labels(
            logits, labels
        ).mean()
    np.testing.assert_allclose(metrics["loss"], total / 2, rtol=1e-4)


@pytest.fixture(scope="module")
def unsharded():
    """The state and losses on one device, computed by the first test."""
    return []


@pytest.mark.parametrize("rule", [None, "fsdp", "rows"])
def test_sharded_equals_unsharded(
    toy, config, num_devices, rule, unsharded, monkeypatch
):
    if rule and num_devices == 1:
        pytest.skip("one device has nothing to split")
    config.proxies.learning_rate = 0.05
    config.optimizer.average = 0.5
    unsharded[:] = unsharded or Run(toy, config, 1).train(3)
    alone, alone_losses = unsharded
    if rule:
        monkeypatch.setattr(sharding, "_SMALL", 0)
        config.sharding = (("encoder", rule),)
        split = Run(toy, config, num_devices).state
        for tree in (split.params, split.opt_state):
            assert any(
                not x.sharding.is_fully_replicated
                for x in jax.tree.leaves(tree)
            )
    state, losses = Run(toy, config, num_devices).train(3)
    np.testing.assert_allclose(losses, alone_losses, rtol=2e-4)
    count = toy.categories
    np.testing.assert_allclose(
        state.proxies[:count], alone.proxies[:count], atol=2e-4
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3),
        (state.params, state.batch_stats, state.average),
        (alone.params, alone.batch_stats, alone.average),
    )


@pytest.mark.parametrize("head", ["exact", "knn"])
def test_loss_decreases(toy, config, head):
    config.head.name = head
    config.steps = 60
    _, losses = Run(toy, config).train(60)
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:5])


def test_bfloat16_compute_keeps_float32_state(toy, config):
    config.precision = "bfloat16"
    state, losses = Run(toy, config).train(2)
    assert np.all(np.isfinite(losses))
    kinds = {x.dtype for x in jax.tree.leaves((state.params, state.opt_state))}
    assert kinds == {np.dtype("float32"), np.dtype("int32")}


def test_frozen_parts_are_unchanged(toy, config):
    config.optimizer.parts = (("image_encoder|text_encoder", 0.0),)
    config.model.image.batch_norm = "frozen"
    run = Run(toy, config)
    before = jax.tree.map(np.array, run.state)
    after, _ = run.train(3)
    for part in ("image_encoder", "text_encoder"):
        jax.tree.map(
            np.testing.assert_array_equal,
            after.params[part],
            before.params[part],
        )
    jax.tree.map(
        np.testing.assert_array_equal, after.batch_stats, before.batch_stats
    )
    moved = after.params["query_layers"]["kernel"]
    assert np.any(moved != before.params["query_layers"]["kernel"])


def test_frozen_encoders_are_not_differentiated(toy, config):
    config.model.image.batch_norm = "frozen"

    def products(parts):
        config.optimizer.parts = parts
        run = Run(toy, config, 1)
        text = run.step.lower(run.state, run.batch()).as_text()
        return text.count("dot_general")

    frozen = (("image_encoder|text_encoder", 0.0),)
    assert products(frozen) < products(())


@pytest.mark.parametrize("head", ["exact", "knn"])
def test_non_finite_steps_are_skipped_and_counted(toy, config, head):
    config.head.name = head
    run = Run(toy, config)

    def set_bias(value):
        """Sets one parameter on the host: the step donates the buffers."""
        state = jax.tree.map(np.array, run.state)
        state.params["query_layers"]["bias"][0] = value
        run.state = jax.device_put(state, state_lib.shardings(state, run.mesh))

    set_bias(np.nan)
    before = jax.tree.map(np.array, run.state)
    for expected in (1, 2):
        run.state, metrics = run.step(run.state, run.batch())
        assert int(metrics["skipped"]) == expected
    after = jax.device_get(run.state)
    assert (int(after.step), int(after.skipped)) == (2, 2)
    for field in ("params", "batch_stats", "opt_state", "proxies"):
        jax.tree.map(
            np.testing.assert_array_equal,
            getattr(after, field),
            getattr(before, field),
        )
    jax.tree.map(
        np.testing.assert_array_equal, after.proxy_state, before.proxy_state
    )
    set_bias(0.0)
    run.state, metrics = run.step(run.state, run.batch())
    assert int(metrics["skipped"]) == 0
    assert np.isfinite(metrics["loss"])


def test_randomness_depends_on_the_step_number_only(toy, config):
    def loss(step):
        run = Run(toy, config)
        state = run.state.replace(
            step=jax.device_put(jnp.int32(step), mesh_lib.replicated(run.mesh))
        )
        return float(run.step(state, run.batch())[1]["loss"])

    assert loss(0) == loss(0)
    assert loss(0) != loss(1)  # dropout


def test_rebuilt_graphs_cause_no_recompilation(toy, config):
    config.head.name = "knn"
    run = Run(toy, config)
    for seed in range(3):
        run.state, _ = run.step(run.state, run.batch(seed))
        run.state = run.state.replace(
            graph=run.head.build_graph(run.state.proxies)
        )
    assert run.step._cache_size() == 1


@pytest.mark.parametrize("head", ["exact", "knn"])
def test_observe_returns_the_monitors_figures(toy, config, head):
    config.head.name = head
    run = Run(toy, config)
    figures = jax.device_get(run.observe(run.state, run.batch()))
    assert ("active_recall" in figures) == (head == "knn")
    assert figures["norm_ratio"] == pytest.approx(1.0, rel=1e-3)
    assert figures["effective_rank"] > 0.5
    assert all(np.isfinite(value) for value in figures.values())


@pytest.mark.slow
def test_active_recall_decreases_with_the_active_set(toy, config):
    config.head.name = "knn"
    config.batch_size = 16

    def recall(active, categories):
        toy.categories = categories
        config.head.active = active
        run = Run(toy, config)
        return float(run.observe(run.state, run.batch())["active_recall"])

    assert recall(1.0, 400) == 1.0
    assert recall(0.32, 400) < 0.9
