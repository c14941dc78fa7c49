"""Contenders of the head benchmark, and the minimum work of their steps.

`dense` is the baseline without this project: all logits `[B, C]`, one
`jax.value_and_grad`, one dense optax update. It uses the heads' loss, CosFace,
and their optimizer, SGD with momentum, so that `dense` and `exact` give the
same results on the same arrays.

Useful work, for R rows that are scored with gradients (C for `dense` and
`exact`, the active rows for the others): `6 B R D` operations for the logits
and the two gradients, however often a head scores a row; `topk` needs `2 B C D`
more to score all C rows. Minimum traffic: R rows of proxies and momentum are
read and written, `4 R D` numbers, plus the embeddings and their gradient,
`2 B D`; `topk` also reads the other C - R proxies.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from benchmarks.arrays import Arrays
from mixer_jax.proxies import heads, interface, row_optimizers
from mixer_jax.runtime import mesh as meshes
from mixer_jax.runtime.errors import UserError
from mixer_jax.training.config import defaults as configs

HEADS = ("dense", "exact", "sampled", "knn", "topk")
SHARED = ("sampled", "knn")  # heads with an active share
FIXED = {"margin": "cosface", "subcenters": 1}  # settings of `dense`
LEARNING_RATE = 0.1
MOMENTUM = 0.9


@dataclasses.dataclass(frozen=True)
class Problem:
    """Sizes and settings common to all contenders of one measurement.

    Attributes:
      classes: C, the number of categories.
      dim: D, the size of embeddings and proxies.
      batch: B, the batch size over all devices.
      overrides: `(key, value)` pairs of `config.head`.
    """

    classes: int
    dim: int
    batch: int
    overrides: tuple[tuple[str, Any], ...] = ()

    def config(self, **changes: Any) -> ConfigDict:
        """Returns `config.head` with the overrides and `changes`.

        Raises:
          UserError: if a key does not exist, or its value has the wrong type
            or is not supported by all contenders.
        """
        config = configs.defaults()
        for key, value in (dict(self.overrides) | changes).items():
            configs.check_keys(config, [f"head.{key}"])
            try:
                config.head[key] = value
            except TypeError as error:
                raise UserError(
                    f"head.{key} cannot be {value!r}; its default is "
                    f"{config.head[key]!r}."
                ) from error
        for key, value in FIXED.items():
            if config.head[key] != value:
                raise UserError(
                    f"head.{key} is {config.head[key]!r}; it must be "
                    f"{value!r}, the only value that all contenders support."
                )
        return config.head


@dataclasses.dataclass(frozen=True)
class Contender:
    """A contender: one row of the benchmark's table.

    Attributes:
      head: the name of the head.
      active: share of the rows scored with gradients.
      rows: number of rows scored with gradients.
      flops: useful operations per step.
      traffic: minimum bytes per step.
      run: performs a step on the arrays, in place, with a PRNG key; returns
        the loss and the embeddings' gradient.
      compile: compiles the step ahead of time, for the problem's shapes.
    """

    head: str
    active: float
    rows: int
    flops: int
    traffic: int
    run: Callable[[Arrays, jax.Array], tuple[Any, Any]]
    compile: Callable[[], None] = lambda: None


def work(problem: Problem, rows: int, searched: int = 0) -> dict[str, int]:
    """Returns `flops` and `traffic` of a step; see the module's docstring.

    Args:
      problem: the sizes.
      rows: R, the number of rows scored with gradients.
      searched: the number of rows scored to find those R rows.
    """
    batch, dim = problem.batch, problem.dim
    others = max(searched - rows, 0)
    return {
        "flops": (6 * rows + 2 * searched) * batch * dim,
        "traffic": 4 * dim * (4 * rows + others + 2 * batch),
    }


def neighbors(problem: Problem, mesh: Mesh, names: tuple[str, ...]) -> int:
    """Returns K of the heads' class graph; 0 if no head needs a graph."""
    if "knn" not in names:
        return 0
    return make_head(problem, mesh, "knn", 1.0).graph_shape.shape[1]


def make_head(
    problem: Problem, mesh: Mesh, name: str, active: float
) -> interface.Head:
    """Returns one of the project's heads."""
    config = problem.config(name=name)
    if name in SHARED:
        config.active = active
    return heads.make_head(config, mesh, problem.classes, problem.batch)


def make_contender(
    problem: Problem, mesh: Mesh, name: str, active: float
) -> Contender:
    """Makes a contender that runs on this project's arrays.

    Args:
      problem: sizes and settings.
      mesh: the mesh over which the arrays are split.
      name: one of HEADS.
      active: share of active rows, for the heads in SHARED.

    Raises:
      UserError: if there is no such head or its settings are invalid.
    """
    rows, searched, graph = problem.classes, 0, None
    if name == "dense":
        step, optimizer = dense(problem, mesh)
    else:
        head = make_head(problem, mesh, name, active)
        optimizer = row_optimizers.sgd(MOMENTUM)
        step, graph = _head_step(head, optimizer), head.graph_shape
        if name != "exact":
            rows = min(head.active * mesh.size, problem.classes)
        if name == "topk":
            searched = problem.classes
    padded = meshes.padded_rows(problem.classes, mesh)
    split = meshes.rows(mesh)
    proxies = jax.ShapeDtypeStruct(
        (padded, problem.dim), jnp.float32, sharding=split
    )
    # The momentum is one array, but the optimizer's state may wrap it.
    wrapping = jax.tree.structure(jax.eval_shape(optimizer.init, proxies))

    @functools.partial(
        jax.jit,
        donate_argnums=(0, 1),
        out_shardings=(split, split, meshes.replicated(mesh), split),
    )
    def jitted(proxies, momentum, embeddings, labels, graph, key):
        proxies, moments, loss, d_embeddings = step(
            proxies,
            jax.tree.unflatten(wrapping, [momentum]),
            embeddings,
            labels,
            graph,
            key,
        )
        (momentum,) = jax.tree.leaves(moments)
        return proxies, momentum, loss, d_embeddings

    compiled = []

    def compile_ahead():
        batch, dim = problem.batch, problem.dim
        lowered = jitted.lower(
            proxies,
            proxies,
            jax.ShapeDtypeStruct((batch, dim), jnp.float32, sharding=split),
            jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=split),
            graph,
            jax.eval_shape(jax.random.key, 0),
        )
        compiled.append(lowered.compile())

    def run(arrays, key):
        call = compiled[0] if compiled else jitted
        arrays.proxies, arrays.momentum, loss, d_embeddings = call(
            arrays.proxies,
            arrays.momentum,
            arrays.embeddings,
            arrays.labels,
            None if graph is None else arrays.graph,
            key,
        )
        return loss, d_embeddings

    return Contender(
        head=name,
        active=active if name in SHARED else 1.0,
        rows=rows,
        **work(problem, rows, searched),
        run=run,
        compile=compile_ahead,
    )


def dense(
    problem: Problem, mesh: Mesh
) -> tuple[Callable, optax.GradientTransformation]:
    """Returns the dense step and its optimizer."""
    config = problem.config()
    optimizer = optax.sgd(LEARNING_RATE, momentum=MOMENTUM)
    padded = meshes.padded_rows(problem.classes, mesh)

    def unit(x):
        squared = jnp.sum(x * x, -1, keepdims=True)
        return x * jax.lax.rsqrt(jnp.maximum(squared, 1e-12))

    def loss_of(embeddings, proxies, labels):
        cosines = unit(embeddings) @ unit(proxies).T
        margin = config.margin_size * jax.nn.one_hot(labels, padded)
        logits = config.scale * (cosines - margin)
        if padded > problem.classes:
            real = jnp.arange(padded) < problem.classes
            logits = jnp.where(real[None, :], logits, -jnp.inf)
        return optax.softmax_cross_entropy_with_integer_labels(
            logits, labels
        ).mean()

    def step(proxies, state, embeddings, labels, graph, key):
        del graph, key
        loss, (d_embeddings, d_proxies) = jax.value_and_grad(
            loss_of, argnums=(0, 1)
        )(embeddings, proxies, labels)
        updates, state = optimizer.update(d_proxies, state, proxies)
        proxies = optax.apply_updates(proxies, updates)
        return proxies, state, loss, d_embeddings

    return step, optimizer


def _head_step(head, optimizer):
    def step(proxies, moments, embeddings, labels, graph, key):
        out = head.step(
            optimizer,
            interface.HeadInput(
                proxies=proxies,
                embeddings=embeddings,
                labels=labels,
                key=key,
                graph=graph,
                moments=moments,
                learning_rate=LEARNING_RATE,
            ),
        )
        return out.proxies, out.moments, out.loss, out.d_embeddings

    return step


def parse_overrides(
    arguments: list[str],
) -> tuple[tuple[str, Any], ...]:
    """Parses `--head.key=value` arguments.

    Raises:
      UserError: if an argument is malformed or a value has the wrong type.
    """
    defaults: Mapping[str, Any] = configs.defaults().head
    pairs = []
    for argument in arguments:
        name, sign, text = argument.partition("=")
        if not name.startswith("--head.") or not sign:
            raise UserError(
                f"Unknown argument '{argument}'; pass settings of the heads as "
                "--head.key=value."
            )
        key = name.removeprefix("--head.")
        if key == "name":
            raise UserError("head.name cannot be set here; use --heads.")
        configs.check_keys(configs.defaults(), [f"head.{key}"])
        kind = type(defaults[key])
        try:
            value = text.lower() == "true" if kind is bool else kind(text)
        except ValueError as error:
            raise UserError(
                f"head.{key} cannot be '{text}'; its default is "
                f"{defaults[key]!r}."
            ) from error
        pairs.append((key, value))
    return tuple(pairs)
