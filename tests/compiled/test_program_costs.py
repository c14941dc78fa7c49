"""Program costs match hand-computed counts."""

import functools

import jax
import jax.numpy as jnp
import pytest

from mixer_jax.compiled import program_costs
from mixer_jax.runtime import mesh as mesh_lib


def compiled(function, *shapes, **options):
    arguments = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
    return jax.jit(function, **options).lower(*arguments).compile()


def count(*lines, num_devices=1):
    text = "ENTRY %main () -> f32[] {\n  "
    text += "\n  ".join(lines) + "\n}\n"
    return program_costs.count(text, num_devices)


def test_products_in_loops_count_per_iteration():
    def nested(x, w):
        def inner(x, _):
            return x @ w, None

        def outer(x, _):
            return jax.lax.scan(inner, x, length=3)[0], None

        return jax.lax.scan(outer, x, length=5)[0]

    made = compiled(nested, (32, 16), (16, 16))
    costs = program_costs.count(made.as_text(), 1)
    one = 2 * 32 * 16 * 16
    assert costs.unknown_loops == 0
    assert costs.repeated_flops == (3 * 5 - 1) * one
    assert made.cost_analysis()["flops"] < 2 * one


def test_data_dependent_loops_are_counted_as_unknown():
    made = compiled(
        lambda x: jax.lax.while_loop(lambda x: x[0] < 9, jnp.square, x), (4,)
    )
    assert program_costs.count(made.as_text(), 1).unknown_loops == 1


def test_only_bytes_in_hbm_count():
    costs = count(
        "%x = f32[100,64]{1,0:T(8,128)} parameter(0)",
        "%near = f32[100,64]{1,0:T(8,128)S(1)} negate(%x)",
        "%twice = f32[100,64]{1,0:T(8,128)S(1)} add(%near, %near)",
        "ROOT %out = f32[100,64]{1,0:T(8,128)} negate(%twice)",
    )
    assert costs.bytes == 2 * 4 * 100 * 64


def test_slices_and_updates_count_only_their_rows():
    rows = "f32[8,64]{1,0}"
    costs = count(
        "%x = f32[1000,64]{1,0} parameter(0)",
        "%i = s32[]{:S(6)} parameter(1)",
        f"%part = {rows} dynamic-slice(%x, %i, %i), dynamic_slice_sizes="
        + "{}",
        "ROOT %new = f32[1000,64]{1,0} dynamic-update-slice(%x, %part, %i, %i)",
    )
    assert costs.bytes == 4 * (4 * 8 * 64)


def test_fusion_reads_only_its_slice():
    text = """\
%fused (p: f32[1000,64], i: s32[]) -> f32[8,64] {
  %p = f32[1000,64]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %cut = f32[8,64]{1,0} dynamic-slice(%p, %i, %i)
  ROOT %n = f32[8,64]{1,0} negate(%cut)
}

ENTRY %main (x: f32[1000,64], i: s32[]) -> f32[8,64] {
  %x = f32[1000,64]{1,0} parameter(0)
  %i = s32[]{:S(6)} parameter(1)
  ROOT %out = f32[8,64]{1,0} fusion(%x, %i), kind=kLoop, calls=%fused
}
"""
    assert program_costs.count(text, 1).bytes == 2 * (4 * 8 * 64)


@pytest.mark.parametrize(
    ("line", "kind", "received"),
    [
        ("f32[64]{0} all-gather(%x), replica_groups={{0,1,2,3}}", 0, 192),
        ("f32[64]{0} all-reduce(%x), replica_groups=[1,4]<=[4]", 1, 384),
        ("f32[16]{0} reduce-scatter(%x), dimensions={0}", 2, 192),
        ("f32[16]{0} fusion(%x), calls=%all-reduce-scatter.1", 2, 192),
        ("f32[64]{0} all-to-all(%x), replica_groups={{0,1},{2,3}}", 3, 128),
        ("f32[64]{0} collective-permute(%x)", 4, 256),
        (
            "(f32[16]{0}, f32[64]{0}) all-gather-start(%x), dimensions={0}",
            0,
            192,
        ),
        (
            "(f32[64]{0}, f32[16]{0}, u32[]{:S(2)}) reduce-scatter-start(%x)",
            2,
            192,
        ),
        (
            "(f32[64]{0}, f32[64]{0}, u32[]{:S(2)}) "
            "collective-permute-start(%x)",
            4,
            256,
        ),
    ],
)
def test_collectives_of_four_chips(line, kind, received):
    kinds = (
        "all-gather",
        "all-reduce",
        "reduce-scatter",
        "all-to-all",
        "collective-permute",
    )
    costs = count(
        "%x = f32[64]{0} parameter(0)",
        f"%out = {line}",
        "ROOT %done = f32[64]{0} all-gather-done(%out)",
        num_devices=4,
    )
    assert costs.collectives == {kinds[kind]: (1, received)}


def test_collectives_of_a_real_program():
    mesh = mesh_lib.make_mesh(jax.devices()[:4])

    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=jax.P(mesh_lib.AXIS),
        out_specs=jax.P(mesh_lib.AXIS),
    )
    def step(x):
        def hop(x, _):
            ring = [(i, (i + 1) % 4) for i in range(4)]
            return jax.lax.ppermute(x, mesh_lib.AXIS, ring), None

        x = jax.lax.scan(hop, x, length=3)[0]
        whole = jax.lax.all_gather(x, mesh_lib.AXIS, tiled=True)
        return x * whole.sum()

    costs = program_costs.count(compiled(step, (64,)).as_text(), 4)
    assert costs.collectives["collective-permute"] == (3, 3 * 4 * 16)
    assert costs.collectives["all-gather"] == (1, 4 * 48)


def test_convolution_padding_does_not_count():
    text = (
        "%x = f32[1,4,4,3]{3,2,1,0} parameter(0)",
        "%w = f32[3,3,3,8]{3,2,1,0} parameter(1)",
        "ROOT %y = f32[1,4,4,8]{3,2,1,0} convolution(%x, %w), "
        "window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f",
    )
    program = program_costs.Program(
        "ENTRY %main () -> f32[] {\n  " + "\n  ".join(text) + "\n}\n"
    )
    flops = program_costs._flops(program, program.roots["%main"])
    assert flops == 2 * 3 * 8 * (4 + 3 + 3) ** 2
