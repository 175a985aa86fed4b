"""Reads a compiled program's text: its instructions, and how often each one runs.

A scan over layers is a `while`, whose body stands in the text once. What is counted in
a body has to be multiplied by the loop's trips, which its condition tells where it
compares with a constant.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_LINE = re.compile(r"^ +(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\((.*)$")
_SHAPE = re.compile(r"\b([a-z]+\d+[a-z0-9]*|pred)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply)=%?([\w.\-]+)")
_LOOP = re.compile(r"condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_BRANCHES = re.compile(
    r"branch_computations=\{([^}]*)\}"
    r"|true_computation=%?([\w.\-]+), false_computation=%?([\w.\-]+)"
)
_BITS = re.compile(r"[a-z]+(\d+)")

# What runs another computation; v7x hands exchanges to its sparse cores (call-start).
_CALLS = ("fusion", "call", "call-start", "async-start")


@dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: Without its %.
      kind: The opcode, such as all-reduce.
      type: What it returns, as text.
      rest: Its operands and attributes, as text.
      root: Whether it is the computation's result.
    """

    name: str
    kind: str
    type: str
    rest: str
    root: bool

    @property
    def sizes(self) -> list[int]:
        """Bytes of each array that it returns."""
        return [shape_bytes(*found) for found in _SHAPE.findall(self.type)]

    @property
    def operands(self) -> list[str]:
        """Names of its operands."""
        return re.findall(r"%([\w.\-]+)", self.rest.split(")", 1)[0])


@dataclass(frozen=True)
class Run:
    """An instruction and how often a step runs it; at least so often if not `known`."""

    instruction: Instruction
    times: int
    known: bool


def shape_bytes(dtype: str, sizes: str) -> int:
    """Returns the bytes of an array such as ("bf16", "8,7168")."""
    bits = _BITS.match(dtype)
    each = int(bits[1]) if bits else 8  # pred
    return math.prod(int(n) for n in sizes.split(",") if n) * each // 8


class Program:
    """A compiled program, read from `compiled.as_text()`."""

    def __init__(self, text: str) -> None:
        """Reads the text."""
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        current: list[Instruction] = []
        for line in text.splitlines():
            if head := _HEAD.match(line):
                current = self.computations.setdefault(head[2], [])
                self.entry = head[2] if head[1] else self.entry
            elif found := _LINE.match(line):
                root, name, kind_of, kind, rest = found.groups()
                current.append(Instruction(name, kind, kind_of, rest, bool(root)))

    def runs(self) -> list[Run]:
        """Lists what a step runs, loops counted; of branches what sends least."""
        return list(self._runs(self.entry, 1, True))

    def trips(self, condition: str) -> int | None:
        """Returns how often a loop runs, if its condition tells.

        Loops count up from 0, as JAX writes them.
        """
        lines = {line.name: line for line in self.computations[condition]}
        (root,) = [line for line in lines.values() if line.root]
        for name in root.operands:
            line = lines.get(name)
            if line is not None and line.kind == "constant":
                number = re.match(r"(\d+)\)", line.rest)
                return int(number[1]) if number else None
        return None

    def _runs(self, name: str, times: int, known: bool) -> Iterator[Run]:
        for line in self.computations.get(name, ()):
            yield Run(line, times, known)
            if loop := _LOOP.search(line.rest):
                trips = self.trips(loop[1])
                again = times * (1 if trips is None else trips)
                yield from self._runs(loop[2], again, known and trips is not None)
            elif branches := _BRANCHES.search(line.rest):
                names = re.findall(
                    r"[\w.\-]+", branches[1] or " ".join(branches.groups()[1:])
                )
                ways = [list(self._runs(way, times, False)) for way in names]
                yield from min(ways, key=_traffic)
            elif line.kind in _CALLS:
                for called in _CALLED.findall(line.rest):
                    yield from self._runs(called, times, known)


def _traffic(runs: list[Run]) -> int:
    return sum(run.times for run in runs if "replica_groups" in run.instruction.rest)
