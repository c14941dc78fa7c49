"""Per-device costs of one run of a compiled program.

XLA's own cost analysis counts the body of a loop once, and counts accesses to
on-chip memory as memory traffic. Here, a loop's body counts once per
iteration, and only accesses to HBM count as memory traffic.
"""

import itertools
import math
import re
from typing import NamedTuple

from mixer_jax.compiled.hlo import Instruction, Program

_COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
_FREE = (
    "after-all",
    "bitcast",
    "call",
    "conditional",
    "constant",
    "get-tuple-element",
    "parameter",
    "partition-id",
    "replica-id",
    "tuple",
    "while",
)
_SLICES = ("dynamic-slice", "gather", "slice")
_UPDATES = {"dynamic-update-slice": 1, "scatter": -1}  # operand index


class Collective(NamedTuple):
    """Number and traffic of the collectives of one kind.

    Attributes:
      number: the number of collectives executed.
      bytes: bytes that a chip receives through them, with ring algorithms.
    """

    number: int
    bytes: int


class Costs(NamedTuple):
    """Per-device costs of one run of a program.

    Attributes:
      repeated_flops: FLOPs of matrix products and convolutions in loops, except
        each loop's first iteration, which XLA's cost analysis includes.
      bytes: bytes read from and written to memory.
      collectives: counts by kind; kinds that do not occur are left out.
      unknown_loops: number of loops counted as one iteration, because their
        trip count could not be read.
    """

    repeated_flops: float
    bytes: int
    collectives: dict[str, Collective]
    unknown_loops: int


def count(text: str, num_devices: int) -> Costs:
    """Counts the costs of a program.

    Args:
      text: the optimized module, from `jax.stages.Compiled.as_text`.
      num_devices: number of participants in collectives without replica
        groups.
    """
    program = Program(text)
    flops, moved, unknown = 0.0, 0, 0
    collectives: dict[str, Collective] = {}
    for one, times in program.runs():
        moved += times * _traffic(program, one)
        flops += (times - 1) * _flops(program, one)
        if one.opcode == "while":
            unknown += program.trip_count(one) is None
        kind, received = _collective(one, num_devices)
        if kind:
            number, total = collectives.get(kind, (0, 0))
            collectives[kind] = Collective(
                number + times, total + times * received
            )
    return Costs(flops, moved, collectives, unknown)


def _collective(one: Instruction, num_devices: int) -> tuple[str | None, int]:
    """Returns a collective's kind, and the bytes that a chip receives."""
    kind = one.opcode.removesuffix("-start")
    # A reduce-scatter may also be compiled to a fusion with this name.
    fused = (one.names("calls") or "").startswith("%all-reduce-scatter")
    if one.opcode == "fusion" and fused:
        kind = "reduce-scatter"
    elif kind not in _COLLECTIVES:
        return None, 0
    size = one.size
    if one.opcode.endswith("-start") and kind != "all-reduce":
        # The result is (operands, results, flags).
        sizes = sorted(array.size for array in one.arrays)
        size = sizes[-2] if kind == "reduce-scatter" else sizes[-1]
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", one.attributes)
    counted = re.search(r"replica_groups=\[\d+,(\d+)\]", one.attributes)
    members = num_devices
    if listed:
        members = listed[1].count(",") + 1
    elif counted:
        members = int(counted[1])
    others = members - 1
    return kind, {
        "all-gather": size * others // members,
        "all-reduce": 2 * size * others // members,
        "reduce-scatter": size * others,
        "all-to-all": size * others // members,
        "collective-permute": size,
    }[kind]


def _traffic(program: Program, one: Instruction) -> int:
    """Returns the bytes that an instruction reads from and writes to HBM."""
    if (
        one.opcode in _FREE
        or one.opcode.endswith("-done")
        or (one.opcode == "custom-call" and "Bitcast" in one.attributes)
    ):
        return 0
    if one.opcode == "copy-start":  # (result, operand, flag)
        return sum(a.size for a in one.arrays[:2] if a.in_memory)
    if one.opcode == "slice-start":  # ((operand), result, flag)
        source, result = one.arrays[:2]
        return result.size * (source.in_memory + result.in_memory)
    if one.opcode.endswith("-start"):
        return one.in_memory
    operands = program.operands(one)
    called = one.names("calls")
    if one.opcode == "fusion" and called in program.computations:
        moved = sum(
            min(_read(program, called, place), operand.size)
            for place, operand in enumerate(operands)
            if operand.in_memory
        )
        if one.in_memory:
            moved += min(_written(program, called), one.in_memory)
        return moved
    if one.opcode in _SLICES:
        return one.size * bool(operands[0].in_memory) + one.in_memory
    if one.opcode in _UPDATES:
        update = operands[_UPDATES[one.opcode]]
        return update.in_memory + update.size * bool(one.in_memory)
    return sum(operand.in_memory for operand in operands) + one.in_memory


def _read(program: Program, computation: str, place: int) -> int:
    """Returns the bytes that a fused computation reads from an operand."""
    for one in program.computations[computation].values():
        if one.opcode == "parameter" and int(one.argument) == place:
            return _used(program, one)
    return 0


def _used(program: Program, value: Instruction) -> int:
    total = 0
    for user in program.users(value):
        first = user.operands[0] == value.name
        if user.opcode in _SLICES and first:
            total += user.size
        elif user.opcode == "dynamic-update-slice" and first:
            pass  # Updated in place, so nothing is read.
        elif user.opcode == "scatter" and first:
            total += program.operand(user, -1).size
        elif user.opcode == "bitcast":
            total += _used(program, user)
        elif user.opcode == "fusion":
            for place, name in enumerate(user.operands):
                if name == value.name:
                    total += _read(program, user.names("calls"), place)
        else:
            total += value.size
    return min(total, value.size)


def _written(program: Program, computation: str) -> int:
    """Returns the bytes that a fused computation writes."""
    todo, total = [program.roots[computation]], 0
    while todo:
        one = todo.pop()
        if one.opcode in _UPDATES:
            total += program.operand(one, _UPDATES[one.opcode]).size
        elif one.opcode in ("bitcast", "tuple"):
            todo += program.operands(one)
        elif one.opcode == "fusion":
            total += _written(program, one.names("calls"))
        else:
            total += one.size
    return total


def _flops(program: Program, one: Instruction) -> float:
    """Returns an instruction's FLOPs in matrix products and convolutions."""
    if one.opcode == "fusion":
        inside = program.computations.get(one.names("calls"), {})
        return sum(_flops(program, inner) for inner in inside.values())
    if one.opcode not in ("dot", "convolution"):
        return 0.0
    left, right = (x.arrays[0].shape for x in program.operands(one)[:2])
    out = one.arrays[0].shape
    if one.opcode == "convolution":
        return _convolution_flops(one.attributes, left, right, out)
    named = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.attributes)
    contracted = [left[int(n)] for n in named[1].split(",") if n]
    return 2.0 * math.prod(out) * math.prod(contracted)


def _convolution_flops(
    attributes: str,
    left: tuple[int, ...],
    right: tuple[int, ...],
    out: tuple[int, ...],
) -> float:
    """Returns a convolution's FLOPs, excluding products with padding.

    The TPU compiler represents batched matrix products as one convolution
    whose window is as large as the batch and mostly covers padding.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", attributes)
    window = re.search(r"window=\{(.*?)\}", attributes)
    fields = dict(re.findall(r"(\w+)=(\S+)", window[1])) if window else {}

    def field(name: str, axis: int, default: int) -> int:
        values = fields.get(name, "").split("x")
        return int(values[axis].split("_")[0]) if name in fields else default

    total = 2.0 * right[labels[2].index("i")]
    total *= math.prod(
        n for n, c in zip(out, labels[3], strict=True) if not c.isdigit()
    )
    spatial = sorted(c for c in labels[3] if c.isdigit())
    for axis, label in enumerate(spatial):
        size = left[labels[1].index(label)]
        stride, before = field("stride", axis, 1), field("pad", axis, 0)
        left_step, right_step = (
            field(name, axis, 1) for name in ("lhs_dilate", "rhs_dilate")
        )
        places = (
            i * stride - before + k * right_step
            for i, k in itertools.product(
                range(out[labels[3].index(label)]),
                range(field("size", axis, 1)),
            )
        )
        total *= sum(
            0 <= place <= (size - 1) * left_step and place % left_step == 0
            for place in places
        )
    return total
