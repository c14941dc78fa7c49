"""Compiles a stage for a TPU pod that is not there, and reads what it takes.

The TPU compiler comes with the package libtpu and needs no TPU: it is given
the shapes and layouts that a run would have, and makes the programs that the
run would run. No array is made.
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
    """What a chip can do.

    Attributes:
      capacity: of its memory (HBM), bytes.
      flops: a second, in bfloat16, which is also how the TPU multiplies
        float32 unless it is asked for more.
      bandwidth: of its memory, bytes a second.
      links: bytes a second that all its links to other chips receive.
    """

    capacity: float
    flops: float
    bandwidth: float
    links: float


# By JAX's name of the device. The figures are Google's, published at
# https://docs.cloud.google.com/tpu/docs/v5e (and /v5p, /v6e), where the links
# are given in both directions: 400, 1200 and 800 GB/s.
CHIPS = {
    "TPU v5 lite": Chip(16e9, 197e12, 819e9, 200e9),
    "TPU v5": Chip(95e9, 459e12, 2765e9, 600e9),
    "TPU v6 lite": Chip(32e9, 918e12, 1638e9, 400e9),
}
_EXAMPLES = "v5e:2x2, v5e:4x4, v5e:16x16, v5p:2x2x1, v5p:4x4x4, v6e:16x16"


@dataclasses.dataclass(frozen=True)
class Row:
    """What one program takes; all figures are of one chip and one run.

    Attributes:
      stage: of the config.
      head: the head's name.
      program: "step", or "graph", which builds the class graph.
      topology: of the pod.
      chips: in the pod.
      categories: C.
      batch_size: B.
      beside: bytes of the state that lie in memory without being the
        program's; of the step there are none.
      arguments: bytes of the state, and the batch.
      temporaries: bytes that the program needs while it runs.
      outputs: bytes of its results.
      aliased: bytes of results that take their arguments' place.
      total: beside + arguments + temporaries + outputs - aliased.
      capacity: of the chip's memory, bytes.
      flops: matrix products in loops count as often as they run, other
        operations in loops once.
      bytes: that memory is read and written; in loops as often as they run.
      collectives: `{kind: {number, bytes}}`; the bytes that a chip receives.
      collective_bytes: of all of them.
      unknown_loops: loops that count as one round all the same, as their
        number of rounds depends on data.
      compute_ms: flops at the chip's peak.
      memory_ms: bytes at its memory's bandwidth.
      collective_ms: collective bytes at the bandwidth of all its links.
      roofline_ms: the longest of the three; no run is faster.
      compile_seconds: on the machine that this ran on.
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
    """Returns the mesh over the abstract devices of a pod.

    Args:
      topology: generation and shape, as in "v5e:16x16".

    Raises:
      UserError: if there is no such topology, or no libtpu.
    """
    # Without these libtpu looks for the TPU that this machine is, and prints
    # that it is none.
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    # A TPU is for one process at a time; a compiler is not.
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
            f"The figures of a {kind} chip, of '{topology}', are not known "
            f"here; examples that are: {_EXAMPLES}."
        )
    return mesh_lib.make_mesh(pod.devices)


def compile_stage(
    config: ConfigDict, num_categories: int, mesh: Mesh, topology: str
) -> list[Row]:
    """Compiles a stage's training step, and the build of its class graph.

    Args:
      config: of the stage, whose values `config.check_values` has checked.
      num_categories: C.
      mesh: from `make_mesh`.
      topology: its name.

    Returns:
      A row for the step and, where the head has a class graph, one for it.

    Raises:
      UserError: for what is wrong with the config, or if a program needs more
        memory than a chip has.
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
        # The step's arguments stay, but for the batch, the proxies, which
        # are the builder's own argument, and the graph that it replaces.
        beside = rows[0].arguments - sum(
            _local_bytes(tree)
            for tree in (batch, run.state.proxies, run.state.graph)
        )
        rows.append(measure("graph", beside, build, run.state.proxies))
    return rows


def _local_bytes(tree: PyTree) -> int:
    """Returns the bytes of a device's part, without a layout's padding."""
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
    """Compiles a jitted function for the mesh and reads what it takes."""
    start = time.monotonic()
    kind = mesh.devices.flat[0].device_kind
    try:
        compiled = function.lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        if not reason.startswith("RESOURCE_EXHAUSTED: "):
            raise
        raise UserError(
            f"The {program} does not fit on a {kind} chip of {mesh.size}: "
            f"{reason.split(': ', 1)[1].rstrip('.')}. Take more chips, or "
            "make batch_size or head.active smaller."
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
