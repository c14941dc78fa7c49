"""Tests with shortened programs as XLA prints them."""

import pytest

from mixer_jax.compiled.hlo import Program

LOOP = """\
HloModule loop, is_scheduled=true

%square (p: f32[8,4]) -> f32[8,4] {
  %p = f32[8,4]{1,0} parameter(0)
  ROOT %times = f32[8,4]{1,0} multiply(%p, %p), metadata={op_name="f(x)"}
}

%body (carry: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %carry = (s32[]{:T(128)}, /*index=1*/f32[8,4]{1,0:T(8,128)S(1)}) parameter(0)
  %one = s32[] constant(1)
  %i = s32[] get-tuple-element(%carry), index=0
  %x = f32[8,4]{1,0:T(8,128)S(1)} get-tuple-element(%carry), index=1
  %next = s32[] add(%i, %one)
  %fused = f32[8,4]{1,0:T(8,128)S(1)} fusion(%x), kind=kLoop, calls=%square
  ROOT %both = (s32[], f32[8,4]{1,0:T(8,128)S(1)}) tuple(%next, %fused)
}

%condition (carry: (s32[], f32[8,4])) -> pred[] {
  %limit = s32[] constant(5)
  %carry = (s32[], f32[8,4]) parameter(0)
  %i = s32[] get-tuple-element(%carry), index=0
  ROOT %go = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (x: f32[8,4]) -> f32[8,4] {
  %x = f32[8,4]{1,0:T(8,128)} parameter(0)
  %zero = s32[] constant(0)
  %start = s32[] copy(%zero)
  %first = (s32[], f32[8,4]{1,0}) tuple(%start, %x)
  %loop = (s32[], f32[8,4]) while(%first), condition=%condition, body=%body
  ROOT %out = f32[8,4]{1,0} get-tuple-element(%loop), index=1
}
"""


def test_instructions_have_shapes_memory_and_operands():
    program = Program(LOOP)
    assert program.entry == "%main"
    carry = program.computations["%body"]["%carry"]
    assert [a.shape for a in carry.arrays] == [(), (8, 4)]
    assert carry.size == 4 + 4 * 8 * 4
    assert carry.in_memory == 4  # S(1) is on-chip memory.
    fused = program.computations["%body"]["%fused"]
    assert fused.opcode == "fusion"
    assert fused.names("calls") == "%square"
    assert program.operand(fused, 0).opcode == "get-tuple-element"
    assert program.users(carry)[0].name == "%i"
    assert program.roots["%square"].attributes == ""


def test_loop_bodies_run_once_per_iteration():
    times = {one.name: n for one, n in Program(LOOP).runs()}
    assert times["%loop"] == 1
    assert times["%fused"] == 5
    assert "%times" not in times


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("direction=LT", "direction=NE"),
        ("%zero = s32[] constant(0)", "%zero = s32[] constant(2)"),
        ("%one = s32[] constant(1)", "%one = s32[] constant(2)"),
        ("constant(5)", "partition-id()"),
    ],
)
def test_trip_counts_of_other_loops_are_unknown(old, new):
    program = Program(LOOP.replace(old, new))
    (loop,) = [one for one, _ in program.runs() if one.opcode == "while"]
    assert program.trip_count(loop) is None
    assert dict((o.name, n) for o, n in program.runs())["%fused"] == 1
