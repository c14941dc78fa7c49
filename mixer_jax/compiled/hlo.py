"""Parser for the HLO text of compiled programs: computations and loops."""

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_ARRAY = re.compile(r"\b([a-z]+\d*)\w*\[([\d,]*)\](\{[^}]*\})?")
_COMPUTATION = re.compile(r"(ENTRY )?(%[\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?(%[\w.\-]+) = ")
_NAME = re.compile(r"%[\w.\-]+")
_METADATA = re.compile(r""", metadata=\{(?:[^}"]|"[^"]*")*\}""")


class Array(NamedTuple):
    """One array of an instruction's result.

    Attributes:
      shape: the shape of this device's part.
      size: the size in bytes, without layout padding.
      in_memory: whether it is in HBM rather than in on-chip memory.
    """

    shape: tuple[int, ...]
    size: int
    in_memory: bool


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction of a computation."""

    computation: str
    name: str
    opcode: str
    arrays: tuple[Array, ...]  # arrays of the result
    argument: str  # the text between the parentheses
    operands: tuple[str, ...]  # names in `argument`
    attributes: str

    @property
    def size(self) -> int:
        """Size of the result in bytes."""
        return sum(array.size for array in self.arrays)

    @property
    def in_memory(self) -> int:
        """Size in bytes of the result's arrays in HBM."""
        return sum(a.size for a in self.arrays if a.in_memory)

    def names(self, attribute: str) -> str | None:
        """Returns the computation named by an attribute, or None."""
        match = re.search(rf"\b{attribute}=(%[\w.\-]+)", self.attributes)
        return match and match[1]


class Program:
    """A module's computations, each `{name: instruction}`, and their roots."""

    def __init__(self, text: str):
        """Parses an optimized module, from `jax.stages.Compiled.as_text`."""
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.roots: dict[str, Instruction] = {}
        self.entry = current = ""
        for line in text.splitlines():
            if head := _COMPUTATION.match(line):
                current = head[2]
                self.computations[current] = {}
                self.entry = current if head[1] else self.entry
            elif current and (match := _INSTRUCTION.match(line)):
                one = _parse(current, line, match)
                self.computations[current][one.name] = one
                if match[1]:
                    self.roots[current] = one
        self._users: dict[tuple[str, str], list[Instruction]] = {}
        for lines in self.computations.values():
            for one in lines.values():
                for name in set(one.operands):
                    key = one.computation, name
                    self._users.setdefault(key, []).append(one)

    def operand(self, one: Instruction, place: int) -> Instruction:
        """Returns the instruction that computes the operand at `place`."""
        return self.computations[one.computation][one.operands[place]]

    def operands(self, one: Instruction) -> list[Instruction]:
        """Returns the instructions that compute all operands."""
        return [self.operand(one, i) for i in range(len(one.operands))]

    def users(self, one: Instruction) -> list[Instruction]:
        """Returns the instructions that have `one` as an operand."""
        return self._users.get((one.computation, one.name), [])

    def runs(self) -> Iterator[tuple[Instruction, int]]:
        """Yields each instruction outside fusions, and how often it runs.

        A fusion is yielded as one instruction. All branches of a conditional
        count; loops with an unknown trip count are assumed to run once.
        """
        todo = [(self.entry, 1)]
        while todo:
            computation, times = todo.pop()
            for one in self.computations[computation].values():
                yield one, times
                if one.opcode == "while":
                    count = self.trip_count(one) or 1
                    todo.append((one.names("body"), times * count))
                elif one.opcode == "call":
                    todo.append((one.names("to_apply"), times))
                elif one.opcode == "conditional":
                    branches = re.search(
                        r"branch_computations=\{(.*?)\}", one.attributes
                    )
                    named = _NAME.findall(branches[1] if branches else "")
                    todo += [(branch, times) for branch in named]

    def trip_count(self, loop: Instruction) -> int | None:
        """Returns the trip count of a `range(n)` loop; None if unknown."""
        count = re.search(
            r'"known_trip_count":\{"n":"(\d+)"', loop.attributes
        )  # Written by the CPU compiler, but not by the TPU compiler.
        if count:
            return int(count[1])
        test = self.roots[loop.names("condition")]
        if test.opcode != "compare" or "direction=LT" not in test.attributes:
            return None
        counter, limit = self.operands(test)
        index = re.search(r"index=(\d+)", counter.attributes)
        if counter.opcode != "get-tuple-element" or limit.opcode != "constant":
            return None
        place = int(index[1])
        step = self.operand(self.roots[loop.names("body")], place)
        first = self._whole(self.operand(self.operand(loop, 0), place))
        steps = [self._whole(x) for x in self.operands(step)]
        if step.opcode != "add" or first != 0 or 1 not in steps:
            return None
        return self._whole(limit)

    def _whole(self, one: Instruction) -> int | None:
        while one.opcode in ("bitcast", "copy"):
            one = self.operand(one, 0)
        whole = re.fullmatch(r"-?\d+", one.argument)
        return int(one.argument) if one.opcode == "constant" and whole else None


def _parse(computation: str, line: str, match: re.Match) -> Instruction:
    start = match.end()
    is_tuple = line[start] == "("
    end = _closes(line, start) if is_tuple else line.index(" ", start)
    opening = line.index("(", end)
    closing = _closes(line, opening)
    argument = line[opening + 1 : closing - 1]
    return Instruction(
        computation=computation,
        name=match[2],
        opcode=line[end:opening].strip(),
        arrays=_arrays(line[start:end]),
        argument=argument,
        operands=tuple(_NAME.findall(argument)),
        attributes=_METADATA.sub("", line[closing:]),
    )


def _closes(text: str, start: int) -> int:
    """Returns the index after the parenthesis that closes `text[start]`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.end()
    raise ValueError(f"Unclosed parenthesis: {text[start:][:80]}")


def _arrays(text: str) -> tuple[Array, ...]:
    arrays = []
    for dtype, dimensions, layout in _ARRAY.findall(text):
        shape = tuple(int(n) for n in dimensions.split(",") if n)
        bits = re.search(r"\d+", dtype)
        size = max(1, int(bits[0]) // 8) if bits else 1
        # S(n) marks another memory space: on-chip memory or flag memory.
        there = "S(" not in layout
        arrays.append(Array(shape, size * math.prod(shape), there))
    return tuple(arrays)
