"""Reads the TPU compiler's final schedule: how many bundles each loop issues.

A bundle is what a core issues in one cycle where nothing stalls. The compiler writes,
for every kernel, its bundles (`*-final_bundles.txt`: `LB` opens a loop's body, `>`
marks are the depth of loops around a bundle) and a table with a row for each bundle and
a column for each unit.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_LINE = re.compile(r"^ *(?:0x[0-9a-f]+|0) +(?P<mark>[A-Z]{2})?: *(?P<depth>>*) ")
_FINAL = "-final_bundles.txt"
_UNITS = "-final_hlo-static-per-bundle-utilization.txt"


@dataclass
class Loop:
    """One loop's body, the loops inside it left out.

    Attributes:
      depth: 1 for an outermost loop.
      bundles: In one pass.
      slots: How many issue slots of each unit they fill.
    """

    depth: int
    bundles: int = 0
    slots: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Schedule:
    """A kernel's loops in program order, and its bundles in all."""

    name: str
    bundles: int
    loops: list[Loop]
    capacity: dict[str, int]

    def main(self, passes: Sequence[int]) -> Loop:
        """Returns the loop body that most cycles go to."""
        cycles = [loop.bundles * n for loop, n in zip(self.loops, passes, strict=True)]
        return self.loops[cycles.index(max(cycles))]

    def fill(self, loop: Loop, unit: str) -> float:
        """Returns the share of a unit's slots that a loop's body fills."""
        slots = self.capacity.get(unit, 0) * loop.bundles
        return loop.slots[unit] / slots if slots else 0.0

    def cycles(self, passes: Sequence[int]) -> int:
        """Returns the bundles of a run, given each loop's passes in program order.

        Raises:
          ValueError: There are not as many loops as passes.
        """
        if len(passes) != len(self.loops):
            raise ValueError(
                f"{self.name} has {len(self.loops)} loops of "
                f"{[loop.bundles for loop in self.loops]} bundles, "
                f"but passes for {len(passes)}"
            )
        pairs = zip(self.loops, passes, strict=True)
        return sum(loop.bundles * n for loop, n in pairs)


def read(dump: Path, kernel: str) -> Schedule:
    """Returns the schedule of the one kernel whose name contains `kernel`.

    Raises:
      ValueError: The dump has no such kernel, or several.
    """
    files = [
        path
        for path in sorted(dump.glob(f"*{_FINAL}"))
        if kernel in path.name and "schedule-analysis" not in path.name
    ]
    if len(files) != 1:
        names = [path.name for path in files]
        raise ValueError(
            f"{len(files)} kernels are named {kernel!r} in the dump: {names}"
        )
    stem = files[0].name.removesuffix(_FINAL).rsplit("-", 1)[0]
    tables = [p for p in dump.glob(f"*{_UNITS}") if p.name.startswith(f"{stem}-")]
    capacity, rows = units(tables[0].read_text().splitlines()) if tables else ({}, [])
    name = stem.split("-", 1)[-1]
    return schedule(name, files[0].read_text().splitlines(), capacity, rows)


def units(lines: Iterable[str]) -> tuple[dict[str, int], list[dict[str, int]]]:
    """Reads a utilisation table: the slots of each unit, and a row a bundle."""
    names: list[str] = []
    rows = []
    for line in lines:
        if line.startswith("MXU"):
            names = [name.strip() for name in line.split(",")]
        elif names and re.fullmatch(r"[\d ]+", line):
            rows.append(dict(zip(names, map(int, line.split()), strict=True)))
    return (rows[0], rows[1:]) if rows else ({}, [])


def schedule(
    name: str,
    lines: Iterable[str],
    capacity: dict[str, int],
    rows: list[dict[str, int]],
) -> Schedule:
    """Adds up a kernel's bundles by loop."""
    bundles = list(_bundles(lines))
    done: list[Loop] = []
    stack: list[Loop] = []
    for i, (depth, opens) in enumerate(bundles):
        while stack and stack[-1].depth >= depth + (not opens):
            stack.pop()
        if opens:
            stack.append(Loop(depth))
            done.append(stack[-1])
        if stack:
            stack[-1].bundles += 1
            if i < len(rows):
                stack[-1].slots.update(rows[i])
    return Schedule(name, len(bundles), done, capacity)


def _bundles(lines: Iterable[str]) -> Iterator[tuple[int, bool]]:
    """Yields each bundle's depth of loops, and whether it opens one.

    An empty bundle is printed without its marks: it is as deep as the shallower of its
    marked neighbours.
    """
    found = [m for m in map(_LINE.match, lines) if m]
    marked = [len(m["depth"]) for m in found]
    opens = [m["mark"] == "LB" for m in found]
    after, below = [0] * len(found), 0
    for i in range(len(found) - 1, -1, -1):
        after[i] = below
        if marked[i]:
            below = marked[i] - opens[i]  # a loop's head lies outside it
    before = 0
    for i, depth in enumerate(marked):
        before = depth or min(before, after[i])
        yield before, opens[i]
