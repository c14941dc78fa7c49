"""Collectives and buffers of the compiled step."""

import collections
import re

import jax
import jax.numpy as jnp
import pytest

from mixer_jax.proxies import heads, interface, row_optimizers
from mixer_jax.runtime import mesh as meshes
from mixer_jax.training.config import defaults as configs

CATEGORIES, DIM, BATCH, CHUNK = 8192, 16, 32, 256
COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-permute",
    "reduce-scatter",
)


@pytest.fixture
def compiled(mesh):
    """Compiles a head's step with donated proxies and momentum."""

    def run(name, **changes):
        config = configs.defaults().head
        config.update({"name": name, "chunk": CHUNK, "neighbors": 4} | changes)
        head = heads.make_head(config, mesh, CATEGORIES, BATCH)
        optimizer = row_optimizers.sgd(0.9)

        def array(*shape, dtype=jnp.float32):
            return jax.ShapeDtypeStruct(
                shape, dtype, sharding=meshes.rows(mesh)
            )

        key = jax.eval_shape(jax.random.key, 0)
        rows = array(CATEGORIES, DIM)

        def step(proxies, moments, embeddings, labels, graph, key):
            return head.step(
                optimizer,
                interface.HeadInput(
                    proxies=proxies,
                    embeddings=embeddings,
                    labels=labels,
                    key=key,
                    graph=graph,
                    moments=moments,
                    learning_rate=0.1,
                ),
            )

        return (
            jax.jit(step, donate_argnums=(0, 1))
            .lower(
                rows,
                rows,
                array(BATCH, DIM),
                array(BATCH, dtype=jnp.int32),
                head.graph_shape,
                key,
            )
            .compile()
        )

    return run


def count(program):
    """Counts the collectives in a program's text, asynchronous ones once."""
    found = re.findall(
        rf"= [^=]*? ({'|'.join(COLLECTIVES)})(?:-start)?\(", program
    )
    return dict(collections.Counter(found))


def buffer_shapes(program):
    """Yields the shapes of all f32 buffers in a program's text."""
    for shape in set(re.findall(r"f32\[([\d,]+)\]", program)):
        yield tuple(map(int, shape.split(",")))


# Embeddings and labels are gathered; maxima, sums and the gradient reduced.
BASE = {"all-gather": 2, "all-reduce": 2, "reduce-scatter": 1}
# `knn` sums the neighbors; `topk` exchanges cosines and gathers thresholds.
EXTRA = {
    "exact": {},
    "sampled": {},
    "knn": {"all-reduce": 1},
    "topk": {"all-gather": 1, "all-to-all": 1},
}


@pytest.mark.parametrize("num_devices", [4], indirect=True)
@pytest.mark.parametrize("name", EXTRA)
def test_every_array_is_sent_only_once(name, compiled):
    expected = collections.Counter(BASE) + collections.Counter(EXTRA[name])
    found = count(compiled(name).as_text())
    # Sums of several arrays may compile to one instruction or several.
    assert set(found) == set(expected)
    for kind, number in found.items():
        assert number <= expected[kind] + (kind == "all-reduce"), (kind, found)


@pytest.mark.parametrize("num_devices", [4], indirect=True)
def test_sums_are_wide_with_a_narrow_wire(compiled):
    text = compiled("exact", wire="bfloat16").as_text()
    assert not re.search(r"bf16\[[\d,]*\]\S* (all-reduce|reduce-scatter)", text)
    assert "all-to-all" in count(text)


@pytest.mark.parametrize("num_devices", [1, 4], indirect=True)
@pytest.mark.parametrize("name", EXTRA)
def test_no_buffer_has_the_size_of_all_categories(name, compiled, mesh):
    program = compiled(name)
    local = CATEGORIES // mesh.size
    for shape in buffer_shapes(program.as_text()):
        # No buffer holds the logits of all rows of a device or of all devices.
        assert not (BATCH in shape and {local, CATEGORIES} & set(shape)), shape
        if mesh.size > 1:
            assert CATEGORIES not in shape, shape
    memory = program.memory_analysis()
    rows = 4 * local * DIM
    # Proxies and momentum are updated in place.
    assert memory.alias_size_in_bytes >= 2 * rows
    # Temporaries are the active rows and their momentum, old and new, and a few
    # blocks of logits.
    active = 1.0 if name == "exact" else 0.1
    limit = 6 * active * rows * (name != "exact") + 12 * 4 * BATCH * CHUNK
    assert memory.temp_size_in_bytes < limit + 2e5
