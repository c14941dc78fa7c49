"""Tests with a small stage, compiled for a pod of four chips."""

import importlib.util
import os

import pytest

from mixer_jax.compiled import abstract_pod
from mixer_jax.runtime.errors import UserError
from mixer_jax.training.config import defaults

TOPOLOGY = "v5e:2x2"
needs_compiler = pytest.mark.skipif(
    "TPU_LIBRARY_PATH" not in os.environ
    and importlib.util.find_spec("libtpu") is None,
    reason="the TPU compiler, libtpu, is not installed",
)


@pytest.fixture
def compile_stage(toy, tiny_config):
    """Compiles the stage with changes to its config."""

    def compile_stage(num_categories=2000, **changes):
        tiny_config.head.name = "knn"
        tiny_config.update_from_flattened_dict(changes)
        mesh = abstract_pod.make_mesh(TOPOLOGY)
        defaults.check_values(tiny_config, mesh.size)
        return abstract_pod.compile_stage(
            tiny_config, num_categories, mesh, TOPOLOGY
        )

    return compile_stage


@needs_compiler
def test_step_and_graph_have_the_expected_costs(compile_stage):
    step, graph = compile_stage()
    assert (step.program, graph.program) == ("step", "graph")
    for row in (step, graph):
        assert row.chips == 4
        assert 0 < row.total < row.capacity
        assert row.total == (
            row.beside
            + row.arguments
            + row.temporaries
            + row.outputs
            - row.aliased
        )
        assert row.roofline_ms == max(
            row.compute_ms, row.memory_ms, row.collective_ms
        )
        assert row.unknown_loops == 0
    # The state is donated, so only the metrics need new memory.
    assert step.outputs - step.aliased <= 4096
    gathered = step.collectives["all-gather"]
    assert gathered["number"] >= 1
    assert gathered["bytes"] >= 4 * 16 * 16 * 3 // 4  # the embeddings
    # Proxies pass around a ring of four, so all pairs are compared.
    assert graph.collectives["collective-permute"]["number"] == 4
    assert graph.collective_bytes == 4 * (4 * 500 * 16)
    assert graph.flops > 2 * 500 * 2000 * 16
    assert graph.beside < step.arguments


@needs_compiler
def test_costs_grow_with_categories(compile_stage):
    (small,) = compile_stage(2000, **{"head.name": "exact"})
    (large,) = compile_stage(8000)[:1]
    (wide,) = compile_stage(8000, **{"head.name": "exact"})
    # Each device holds proxies and momentum of a quarter of the categories.
    more = 2 * (8000 - 2000) // 4 * 16 * 4
    assert wide.arguments - small.arguments >= more
    assert large.arguments > wide.arguments  # the graph's rows
    assert wide.flops - small.flops >= 6 * 16 * 16 * 1500


@needs_compiler
@pytest.mark.parametrize("topology", ["v5e:3x3", "tpu", "v4:2x2x2"])
def test_unknown_topology_error_lists_examples(topology):
    with pytest.raises(UserError, match=r"examples.*: v5e:2x2, v5e:4x4"):
        abstract_pod.make_mesh(topology)


@needs_compiler
def test_oversized_program_raises_an_error(compile_stage):
    with pytest.raises(UserError, match="does not fit on a TPU v5 lite chip"):
        compile_stage(500_000_000, **{"head.active": 0.9})


def test_missing_compiler_raises_an_error(monkeypatch):
    def missing(*arguments, **options):
        raise RuntimeError("JAX TPU support not installed")

    monkeypatch.setattr(abstract_pod.topologies, "get_topology_desc", missing)
    with pytest.raises(UserError, match=r'pip install "mixer_jax\[tpu\]"'):
        abstract_pod.make_mesh(TOPOLOGY)
