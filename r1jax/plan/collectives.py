"""What a step sends between chips, read out of the compiled program.

The model of its time is simple: hops over the torus, each with a latency, and bytes
over the links that a group of devices can use at once. Links come from datasheets.
"""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from r1jax.plan.hlo import Instruction, Program, Run
from r1jax.plan.slices import Slice

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
)
# A neighbour's answer takes about a microsecond.
HOP_SECONDS = 1e-6
_REMOTE = re.compile(r'"remote_bytes_transferred":"(\d+)"')
_LISTED = re.compile(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(
    r"replica_groups=mesh\[([^\]]*)\]"
    r"(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}"
)
_PAIRS = re.compile(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}")
_AXIS = re.compile(r"'(\w+)'=(\d+)")
_USED = re.compile(r"'(\w+)'(?::\((\d+)\)(\d+))?")


@dataclass(frozen=True)
class Collective:
    """One exchange of a step.

    Attributes:
      kind: As XLA calls it, or a kernel's name.
      bytes: What a device contributes to or keeps of it, whichever is more.
      group: The devices of its first group, by their place in the mesh.
      times: How often a step runs it.
      known: Whether that is certain; a loop that ends by data is counted once.
      where: The layer that asks for it.
    """

    kind: str
    bytes: int
    group: tuple[int, ...]
    times: int
    known: bool
    where: str

    @property
    def sent(self) -> float:
        """Bytes that a device sends, at least (a ring's; halves meet in the middle)."""
        n = len(self.group)
        if self.kind == "collective-permute" or self.kind not in KINDS:
            return self.bytes
        return self.bytes * (n - 1) / n * (2 if self.kind == "all-reduce" else 1)

    def seconds(self, on: Slice) -> float:
        """Returns the least that all its runs take on a slice."""
        if len(self.group) < 2 or on.link is None:
            return 0.0
        ring = on.ring(self.group)
        passes = 2 if self.kind == "all-reduce" else 1
        each = passes * ring.hops * HOP_SECONDS
        return self.times * (each + self.sent / (ring.links * on.link))


def read(program: Program, devices: int) -> list[Collective]:
    """Returns a program's exchanges in order, equal ones of one place together.

    Args:
      program: What was compiled.
      devices: In the mesh; the group of a kernel that sends by itself.
    """
    found = [one for run in program.runs() for one in _of(run, devices)]
    return [one for one in found if len(one.group) > 1]


def _of(run: Run, devices: int) -> list[Collective]:
    line = run.instruction
    kind = line.kind.removesuffix("-start")
    if kind in KINDS:
        group = groups(line.rest, devices)[0]
        size = _bytes(line, kind, len(group))
        return [Collective(kind, size, group, run.times, run.known, _where(line))]
    remote = _REMOTE.search(line.rest)
    if kind == "custom-call" and remote and int(remote[1]):
        name = re.sub(r"[.\d]+$", "", line.name)
        every = tuple(range(devices))
        size = int(remote[1])
        return [Collective(name, size, every, run.times, run.known, _where(line))]
    return []


def _bytes(line: Instruction, kind: str, members: int) -> int:
    """Returns the whole array that a group of devices exchanges."""
    sizes = line.sizes
    started = line.kind.endswith("-start")
    if kind == "reduce-scatter":
        return sum(sizes) * members
    if started and kind in ("all-gather", "collective-permute"):
        return max(sizes)  # the operand, the result, and flags
    return sum(sizes)


def groups(attributes: str, devices: int) -> list[tuple[int, ...]]:
    """Reads `replica_groups` in each of the forms that XLA prints.

    Raises:
      ValueError: It is in another one.
    """
    if found := _LISTED.search(attributes):
        listed = re.findall(r"\{([\d,]*)\}", found[1])
        return [tuple(map(int, g.split(","))) for g in listed] or [
            tuple(range(devices))
        ]
    if found := _IOTA.search(attributes):
        rows, width = _numbers(found[1])
        flat = _iota(_numbers(found[2]), _numbers(found[3]))
        return [tuple(flat[i * width : (i + 1) * width]) for i in range(rows)]
    if found := _MESH.search(attributes):
        return _along(*found.groups())
    if found := _PAIRS.search(attributes):
        pairs = re.findall(r"\{(\d+),(\d+)\}", found[1])
        return [tuple(sorted({int(n) for pair in pairs for n in pair}))]
    raise ValueError(f"replica groups in an unknown form: {attributes[:200]}")


def _along(
    mesh: str, order: str | None, turn: str | None, used: str
) -> list[tuple[int, ...]]:
    """Returns the groups along some axes of a mesh, or along parts of them."""
    axes = [(name, int(size)) for name, size in _AXIS.findall(mesh)]
    total = math.prod(size for _, size in axes)
    flat = _iota(_numbers(order), _numbers(turn)) if order else list(range(total))
    parts = {
        name: (int(pre or 1), int(size or 0)) for name, pre, size in _USED.findall(used)
    }
    found: dict[tuple[int, ...], list[int]] = {}
    for place, where in enumerate(itertools.product(*(range(n) for _, n in axes))):
        key: list[int] = []
        for (name, size), at in zip(axes, where, strict=True):
            if name not in parts:
                key.append(at)
                continue
            before, length = parts[name]
            after = size // before // (length or size // before)
            key += [at // (size // before), at % after]
        found.setdefault(tuple(key), []).append(flat[place])
    return [tuple(group) for group in found.values()]


def _iota(sizes: Sequence[int], turn: Sequence[int]) -> list[int]:
    """Returns 0, 1, ... laid out in `sizes` and read with its axes turned."""
    strides = [math.prod(sizes[i + 1 :]) for i in range(len(sizes))]
    order = list(turn) or list(range(len(sizes)))
    ranges = [range(sizes[axis]) for axis in order]
    steps = [strides[axis] for axis in order]
    return [
        sum(i * step for i, step in zip(at, steps, strict=True))
        for at in itertools.product(*ranges)
    ]


def _numbers(text: str | None) -> list[int]:
    return [int(n) for n in text.split(",")] if text else []


def _where(line: Instruction) -> str:
    """Returns the end of the path of names that asked for an instruction."""
    found = re.search(r'op_name="([^"]*)"', line.rest)
    names = found[1].split("/") if found else []
    kept = [n for n in names if n not in ("while", "body", "closed_call", "shard_map")]
    return "/".join(kept[1:][-3:])
