"""Compilation of a stage for a TPU pod, without any TPUs, and its costs.

The TPU compiler in the package libtpu needs no TPU: given the shapes and
layouts of a run, it produces the programs that the run would execute. No
arrays are allocated.
"""

import dataclasses
import functools
import math
import os
import time
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mixer_jax.compiled import program_costs
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime.errors import UserError
from mixer_jax.training import abstract_step, setup

PyTree = Any


class Chip(NamedTuple):
    """Memory size and peak rates of a chip.

    Attributes:
      capacity: size of the memory (HBM), in bytes.
      flops: FLOPs per second in bfloat16, which is also the TPU's default
        precision for products of float32.
      bandwidth: bandwidth of the memory, in bytes per second.
      links: bytes per second received over all links to other chips.
    """

    capacity: float
    flops: float
    bandwidth: float
    links: float


# Keyed by JAX's `device_kind`. The figures are published by Google at
# https://docs.cloud.google.com/tpu/docs/v5e (and /v5p, /v6e); `links` is half
# the published bidirectional bandwidth of 400, 1200 and 800 GB/s.
CHIPS = {
    "TPU v5 lite": Chip(16e9, 197e12, 819e9, 200e9),
    "TPU v5": Chip(95e9, 459e12, 2765e9, 600e9),
    "TPU v6 lite": Chip(32e9, 918e12, 1638e9, 400e9),
}
_EXAMPLES = "v5e:2x2, v5e:4x4, v5e:16x16, v5p:2x2x1, v5p:4x4x4, v6e:16x16"


@dataclasses.dataclass(frozen=True)
class Row:
    """Costs of running one program once, per chip.

    Attributes:
      stage: the config's name.
      head: the head's name.
      program: "step", or "graph", which builds the class graph.
      topology: name of the pod's topology.
      chips: number of chips in the pod.
      categories: C.
      batch_size: B.
      beside: bytes of the state that stay in memory while the program runs but
        are not its arguments; 0 for the step.
      arguments: bytes of the program's arguments.
      temporaries: bytes that the program needs while it runs.
      outputs: bytes of its results.
      aliased: bytes of results that reuse the memory of arguments.
      total: beside + arguments + temporaries + outputs - aliased.
      capacity: size of the chip's memory, in bytes.
      flops: FLOPs; in loops, matrix products count once per iteration, other
        operations only once.
      bytes: bytes read from and written to memory; accesses in loops count
        once per iteration.
      collectives: `{kind: {number, bytes}}`, with the bytes a chip receives.
      collective_bytes: total bytes of all kinds of collectives.
      unknown_loops: number of loops counted as one iteration, because their
        trip count could not be read.
      compute_ms: time for `flops` at the chip's peak rate.
      memory_ms: time for `bytes` at the memory's bandwidth.
      collective_ms: time for `collective_bytes` at the bandwidth of all links.
      roofline_ms: the maximum of these times, a lower bound on the run time.
      compile_seconds: compile time on this machine.
    """

    stage: str
    head: str
    program: str
    topology: str
    chips: int
    categories: int
    batch_size: int
    beside: int
    arguments: int
    temporaries: int
    outputs: int
    aliased: int
    total: int
    capacity: float
    flops: float
    bytes: int
    collectives: dict[str, dict[str, int]]
    collective_bytes: int
    unknown_loops: int
    compute_ms: float
    memory_ms: float
    collective_ms: float
    roofline_ms: float
    compile_seconds: float


def make_mesh(topology: str) -> Mesh:
    """Returns a mesh over the abstract devices of a pod.

    Args:
      topology: generation and shape, as in "v5e:16x16".

    Raises:
      UserError: if there is no such topology, or libtpu is missing.
    """
    # Without these variables, libtpu looks for TPUs on this machine and
    # prints that there are none.
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    # libtpu allows one process at a time; compilation does not need this limit.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    try:
        pod = topologies.get_topology_desc(topology, platform="tpu")
    except jax.errors.JaxRuntimeError as error:
        code, _, reason = str(error).splitlines()[0].partition(": ")
        if code != "INVALID_ARGUMENT":
            raise
        raise UserError(
            f"There is no TPU topology '{topology}' ({reason}); examples: "
            f"{_EXAMPLES}."
        ) from error
    except RuntimeError as error:
        raise UserError(
            "The TPU compiler is not installed; install it with: "
            'pip install "mixer_jax[tpu]".'
        ) from error
    kind = pod.devices[0].device_kind
    if kind not in CHIPS:
        raise UserError(
            f"The specifications of a {kind} chip ('{topology}') are unknown; "
            f"examples of supported topologies: {_EXAMPLES}."
        )
    return mesh_lib.make_mesh(pod.devices)


def compile_stage(
    config: ConfigDict, num_categories: int, mesh: Mesh, topology: str
) -> list[Row]:
    """Compiles a stage's training step and the program that builds its graph.

    Args:
      config: the stage's config, already checked by `config.check_values`.
      num_categories: C.
      mesh: the result of `make_mesh`.
      topology: name of the pod's topology.

    Returns:
      A row for the step and, if the head has a class graph, one for its build.

    Raises:
      UserError: if the config is invalid, or a program needs more memory than
        a chip has.
    """
    run = setup.assemble(config, num_categories, mesh)
    batch = abstract_step.make_batch(run)
    train_step = abstract_step.make_step(run)
    known = functools.partial(
        Row,
        stage=config.name,
        head=config.head.name,
        topology=topology,
        chips=mesh.size,
        categories=num_categories,
        batch_size=config.batch_size,
    )
    measure = functools.partial(_measure, known, mesh)
    rows = [measure("step", 0, train_step, run.state, batch)]
    if run.head.graph_shape is not None:
        build = jax.jit(run.head.build_graph, out_shardings=mesh_lib.rows(mesh))
        # While the graph is built, the step's arguments stay in memory, except
        # the batch, the proxies (an argument of `build`) and the old graph.
        beside = rows[0].arguments - sum(
            _local_bytes(tree)
            for tree in (batch, run.state.proxies, run.state.graph)
        )
        rows.append(measure("graph", beside, build, run.state.proxies))
    return rows


def _local_bytes(tree: PyTree) -> int:
    """Returns the size per device in bytes, without layout padding."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _measure(
    known: functools.partial,
    mesh: Mesh,
    program: str,
    beside: int,
    function: Any,
    *arguments: PyTree,
) -> Row:
    """Compiles a jitted function for the mesh and returns its costs."""
    start = time.monotonic()
    kind = mesh.devices.flat[0].device_kind
    try:
        compiled = function.lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        if not reason.startswith("RESOURCE_EXHAUSTED: "):
            raise
        raise UserError(
            f"The {program} does not fit on a {kind} chip ({mesh.size} chips): "
            f"{reason.split(': ', 1)[1].rstrip('.')}. Use more chips, or lower "
            "batch_size or head.active."
        ) from error
    seconds = time.monotonic() - start
    memory = compiled.memory_analysis()
    costs = program_costs.count(compiled.as_text(), mesh.size)
    flops = compiled.cost_analysis()["flops"] + costs.repeated_flops
    received = sum(c.bytes for c in costs.collectives.values())
    chip = CHIPS[kind]
    times = {
        "compute_ms": 1e3 * flops / chip.flops,
        "memory_ms": 1e3 * costs.bytes / chip.bandwidth,
        "collective_ms": 1e3 * received / chip.links,
    }
    sizes = {
        "beside": beside,
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
    }
    aliased = memory.alias_size_in_bytes
    return known(
        program=program,
        **sizes,
        aliased=aliased,
        total=sum(sizes.values()) - aliased,
        capacity=chip.capacity,
        flops=flops,
        bytes=costs.bytes,
        collectives={k: c._asdict() for k, c in costs.collectives.items()},
        collective_bytes=received,
        unknown_loops=costs.unknown_loops,
        **times,
        roofline_ms=max(times.values()),
        compile_seconds=round(seconds, 1),
    )
