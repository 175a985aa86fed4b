"""Reads the TPU compiler's final schedule: how many bundles each region issues.

A bundle is what a core issues in one cycle where nothing stalls. The compiler writes,
for every kernel, its bundles (`*-final_bundles.txt`: `LB` opens a loop's body, `>`
marks are the depth of loops around a bundle, `sbr.rel` branches to where a numbered
region starts) and a table with a row for each bundle and a column for each unit.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

_LINE = re.compile(r"^ *(?:0x[0-9a-f]+|0) +(?P<mark>[A-Z]{2})?: *(?P<depth>>*) ")
_BRANCH = re.compile(r"sbr\.rel (?:\([^)]*\) )?target = \$region(\d+)")
_TEST = re.compile(r"(%\w+) = scmp\.ge\.s32\.totalorder %\w+, (\d+)")
_BACK = re.compile(r"sbr\.rel \(!(%\w+)\) target")
_STARTS = re.compile(r"Start(?:/End empty)? region (\d+)")
_FINAL = "-final_bundles.txt"
_UNITS = "-final_hlo-static-per-bundle-utilization.txt"
# Bundles after a branch that are issued whether it is taken or not, at most.
_DELAY = 4
# A branch over fewer bundles is counted as if it were never taken: what lies under it
# belongs to what is around it, for us and for the peers.
SMALL = 32


@dataclass
class Region:
    """A loop's body, or what a branch may skip; the regions inside it left out.

    Attributes:
      kind: "loop", or "branch" for bundles that a condition skips.
      depth: 1 for an outermost region.
      parent: The region around it, by its place in the list.
      bundles: In one pass.
      slots: How many issue slots of each unit they fill.
      limit: Where a loop ends at a constant: this. A Pallas grid of one core is such a
        loop, two passes longer than the grid: copies run ahead and results behind.
    """

    kind: Literal["loop", "branch"]
    depth: int
    parent: int | None = None
    limit: int | None = None
    bundles: int = 0
    slots: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Schedule:
    """A kernel's regions in program order.

    Attributes:
      name: As in the dump.
      once: What lies in no region.
      regions: Loops, and branches over `SMALL` bundles or more.
      capacity: Issue slots of each unit in a bundle.
    """

    name: str
    once: Region
    regions: list[Region]
    capacity: dict[str, int]

    @property
    def bundles(self) -> int:
        """Counts the program's bundles, each once."""
        return self.once.bundles + sum(r.bundles for r in self.regions)

    @property
    def loops(self) -> list[Region]:
        """Lists the loops alone."""
        return [region for region in self.regions if region.kind == "loop"]

    def outline(self) -> str:
        """Draws the regions: kind, bundles, and what is inside in brackets."""
        parts, depth = [], 0
        for region in self.regions:
            parts += ["("] * (region.depth - 1 - depth)
            parts += [")"] * (depth - region.depth + 1)
            limit = f" x{region.limit}" if region.limit is not None else ""
            parts.append(f"{region.kind} {region.bundles}{limit}")
            depth = region.depth - 1
        return " ".join([*parts, *[")"] * depth])

    def counts(self, passes: Sequence[int | None]) -> list[int]:
        """Fills in passes that are None: as often as the region around.

        In a loop that is as often as it has passes by its constant limit.

        Raises:
          ValueError: There are not as many regions as passes, or an outermost loop has
            another number of passes than its limit.
        """
        if len(passes) != len(self.regions):
            raise ValueError(
                f"{self.name} has {len(self.regions)} regions, {self.outline()}, "
                f"but passes for {len(passes)}: {list(passes)}"
            )
        counts: list[int] = []
        for region, n in zip(self.regions, passes, strict=True):
            around = 1 if region.parent is None else counts[region.parent]
            limit = region.limit if region.kind == "loop" else 1
            missing = n is None and limit is None
            wrong = region.kind == "loop" and region.depth == 1 and limit and n
            if missing or (wrong and n != limit):
                raise ValueError(
                    f"{self.name}: {n} passes of a loop with a limit of {limit}, in "
                    f"{self.outline()}"
                )
            counts.append(around * (limit or 1) if n is None else n)
        return counts

    def main(self, passes: Sequence[int | None]) -> Region:
        """Returns the region that most cycles go to."""
        cycles = [
            region.bundles * n
            for region, n in zip(self.regions, self.counts(passes), strict=True)
        ]
        return self.regions[cycles.index(max(cycles))] if cycles else self.once

    def fill(self, region: Region, unit: str) -> float:
        """Returns the share of a unit's slots that a region's bundles fill."""
        slots = self.capacity.get(unit, 0) * region.bundles
        return region.slots[unit] / slots if slots else 0.0

    def fill_all(self, passes: Sequence[int | None], unit: str) -> float:
        """Returns the share of a unit's slots that a run fills."""
        pairs = zip(self.regions, self.counts(passes), strict=True)
        filled = self.once.slots[unit] + sum(r.slots[unit] * n for r, n in pairs)
        slots = self.capacity.get(unit, 0) * self.cycles(passes)
        return filled / slots if slots else 0.0

    def cycles(self, passes: Sequence[int | None]) -> int:
        """Returns the bundles of a run, given each region's passes in program order."""
        pairs = zip(self.regions, self.counts(passes), strict=True)
        return self.once.bundles + sum(region.bundles * n for region, n in pairs)


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
    """Adds up a kernel's bundles by region."""
    bundles = list(_bundles(lines))
    delay = _delay(bundles)
    spans = [*_loops(bundles, delay), *_skips(bundles, delay)]
    while True:
        schedule = _added(name, bundles, _nested(spans), capacity, rows)
        pairs = zip(_nested(spans), schedule.regions, strict=True)
        small = [s for s, r in pairs if s.kind == "branch" and r.bundles < SMALL]
        if not small:
            return schedule
        spans.remove(max(small, key=lambda span: span.start))


class _Bundle(NamedTuple):
    depth: int  # of loops
    opens: bool  # a loop
    lands: bool  # a branch may lead here
    target: str | None  # the region that it branches to
    starts: list[str]  # regions
    limit: int | None = None  # of the loop that ends here


class _Span(NamedTuple):
    start: int
    end: int
    kind: Literal["loop", "branch"]


def _bundles(lines: Iterable[str]) -> Iterator[_Bundle]:
    """Yields each bundle.

    An empty bundle is printed without its marks: it is as deep as the shallower of its
    marked neighbours. A bundle may be printed on several lines.
    """
    texts: list[str] = []
    found = []
    for line in lines:
        if match := _LINE.match(line):
            found.append(match)
            texts.append(line)
        elif texts:
            texts[-1] += line
    marked = [len(m["depth"]) for m in found]
    opens = [m["mark"] == "LB" for m in found]
    after, below = [0] * len(found), 0
    for i in range(len(found) - 1, -1, -1):
        after[i] = below
        if marked[i]:
            below = marked[i] - opens[i]  # a loop's head lies outside it
    tests = dict(_TEST.findall("".join(texts)))
    before = 0
    for i, depth in enumerate(marked):
        before = depth or min(before, after[i])
        branch = _BRANCH.search(texts[i])
        starts = _STARTS.findall(texts[i])
        back = _BACK.search(texts[i])
        limit = tests.get(back[1]) if back else None
        yield _Bundle(
            before,
            opens[i],
            found[i]["mark"] in ("LB", "PF"),
            branch[1] if branch else None,
            starts,
            None if limit is None else int(limit),
        )


def _delay(bundles: Sequence[_Bundle]) -> int:
    """Returns a branch's delay slots: 4 up to v6e, 1 on v7x.

    No branch leads into them, so they are the fewest bundles before the next one that
    a branch leads to.
    """
    fewest = _DELAY
    for i, bundle in enumerate(bundles):
        if bundle.target:
            window = [b.lands for b in bundles[i + 1 : i + 1 + fewest]]
            fewest = window.index(True) if True in window else fewest
    return fewest


def _loops(bundles: Sequence[_Bundle], delay: int) -> Iterator[_Span]:
    """Yields loops: from the head to the branch back to it and its delay slots.

    Where there is no such branch, as far as the bundles' depth says.
    """
    where = {name: i for i, bundle in enumerate(bundles) for name in bundle.starts}
    backs = {where.get(b.target): i for i, b in enumerate(bundles) if b.target}
    for i, bundle in enumerate(bundles):
        if not bundle.opens:
            continue
        if (back := backs.get(i, -1)) >= i:
            yield _Span(i, min(back + 1 + delay, len(bundles)), "loop")
            continue
        inside = (b.depth >= bundle.depth for b in bundles[i:])
        length = next((n for n, is_in in enumerate(inside) if not is_in), None)
        yield _Span(i, len(bundles) if length is None else i + length, "loop")


def _skips(bundles: Sequence[_Bundle], delay: int) -> Iterator[_Span]:
    """Yields what forward branches skip."""
    where = {name: i for i, bundle in enumerate(bundles) for name in bundle.starts}
    for i, bundle in enumerate(bundles):
        first = i + 1 + delay
        if bundle.target and where.get(bundle.target, 0) > first:
            yield _Span(first, where[bundle.target], "branch")


def _nested(spans: Iterable[_Span]) -> list[_Span]:
    """Orders spans from outside in, and ends none after the one around it."""
    kept: list[_Span] = []
    around: list[_Span] = []
    # Where both are as long, the condition is on the loop.
    for span in sorted(spans, key=lambda s: (s.start, -s.end, s.kind)):
        while around and around[-1].end <= span.start:
            around.pop()
        end = min([span.end, *(s.end for s in around)])
        kept.append(span._replace(end=end))
        around.append(kept[-1])
    return kept


def _added(
    name: str,
    bundles: Sequence[_Bundle],
    spans: Sequence[_Span],
    capacity: dict[str, int],
    rows: list[dict[str, int]],
) -> Schedule:
    owner: list[int | None] = [None] * len(bundles)
    regions: list[Region] = []
    for place, span in enumerate(spans):
        parent = owner[span.start]
        depth = 1 if parent is None else regions[parent].depth + 1
        regions.append(Region(span.kind, depth, parent))
        owner[span.start : span.end] = [place] * (span.end - span.start)
    once = Region("branch", 0)
    for i, (bundle, place_) in enumerate(zip(bundles, owner, strict=True)):
        region = once if place_ is None else regions[place_]
        region.bundles += 1
        if region.kind == "loop" and bundle.limit is not None:
            region.limit = bundle.limit  # of its last branch, back to its head
        if i < len(rows):
            region.slots.update(rows[i])
    return Schedule(name, once, regions, capacity)
