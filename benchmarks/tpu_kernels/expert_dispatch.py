"""The kernels that carry tokens to their experts and back. Nothing inside JAX compares.

Choices are spread evenly. Bytes are those that a device reads and writes in its own
HBM; what goes over its links is in the case's name, for the links' rates are not known
here. Each kernel is compiled for one device that is told of the others: the code that
starts a copy is the same.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from tpu_bundles import Region
from tpu_compile import Comparison, Passes, Program, listed
from tpu_kernels.grid import STAGES

from r1jax.pallas.backend import Backend
from r1jax.pallas.chips import Chip
from r1jax.pallas.expert_dispatch import kernel, weigh
from r1jax.pallas.expert_dispatch import rows as layout
from r1jax.pallas.expert_dispatch.cases import CASES, Case
from r1jax.pallas.expert_dispatch.plan import Axis, Runs

_AXIS = "x"
_PACKING = 2  # bfloat16 in a word
_BEFORE = 5  # loops before the exchange waits, but for those that copies have on v7x
_SLICES = {"v5e": "v5e:", "v6e": "v6e:", "v7x": "tpu7x:"}


def comparisons(chip: Chip) -> Iterator[Comparison]:
    """Yields the kernels of each case that is of this generation."""
    for case in CASES:
        if not case.topology.startswith(_SLICES[chip.name]):
            continue
        sent = case.sent_bytes("kernel")["dispatch"] / 2**20
        for program, flops in _programs(case, Backend("tpu", chip)):
            name = program.kernel.removeprefix("expert_")
            links = f", {sent:.1f} MiB over links" if program.who == "exchange" else ""
            yield Comparison(
                "expert_dispatch",
                f"{case.name} {name}{links}",
                flops,
                "bfloat16",
                program,
            )


def _programs(case: Case, backend: Backend) -> Iterator[tuple[Program, int]]:
    """Yields each kernel, and its operations."""
    choices, capacity = case.tokens * case.per_token, case.most_rows()
    matrix = _shape((capacity, case.width))
    moved = 2 * choices * case.row_bytes
    count = jax.ShapeDtypeStruct((), jnp.int32)
    for out, there in ((True, capacity), (False, choices)):
        wire = _wire(case, case.tokens if out else capacity)
        yield (
            Program(
                "exchange",
                "expert_dispatch" if out else "expert_combine",
                _exchange(case, backend, out, there),
                (wire, *_tables(case)),
                _copies(case, out),
                moved,
            ),
            0,
        )
    for name, call, x in (
        ("expert_unpack", layout.unpack, _wire(case, capacity)),
        ("expert_pack", layout.pack, matrix),
    ):

        def change(x: Any, used: Any, call: Callable[..., Any] = call) -> Any:
            return call(x, used, backend)

        steps = -(-choices // min(layout.BLOCK, capacity))
        yield Program("r1jax", name, change, (x, count), _grid(steps), moved), 0

    def total(*arrays: Any) -> Any:
        return weigh.total(*arrays, backend)

    shape = (case.tokens, case.per_token)
    dtypes = (jnp.int32, jnp.bool_, jnp.float32)
    narrow = [jax.ShapeDtypeStruct(shape, dtype) for dtype in dtypes]
    read = choices * case.row_bytes + 4 * case.tokens * case.width
    steps = -(-case.tokens // weigh.TOKENS)
    yield (
        Program(
            "r1jax",
            "expert_sum",
            total,
            (_wire(case, choices), *narrow),
            _sum(steps),
            read,
        ),
        case.flops(),
    )


def _shape(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16)


def _wire(case: Case, rows: int) -> jax.ShapeDtypeStruct:
    return _shape((rows, _PACKING, case.width // _PACKING))


def _tables(case: Case) -> list[jax.ShapeDtypeStruct]:
    """Returns the runs' four tables, and each choice's token."""
    sizes = [*[case.experts] * 4, case.tokens * case.per_token]
    return [jax.ShapeDtypeStruct((size,), jnp.int32) for size in sizes]


def _exchange(
    case: Case, backend: Backend, outward: bool, capacity: int
) -> Callable[..., Any]:
    axis, whole = Axis(_AXIS, case.devices), PartitionSpec()

    def send(wire: Any, *tables: Any) -> Any:
        *runs, token = tables
        token = token if outward else None
        return kernel.exchange(wire, Runs(*runs), token, axis, capacity, backend)

    def call(*arrays: Any) -> Any:
        form = dict(in_specs=whole, out_specs=whole, check_vma=False)
        return jax.shard_map(send, **form)(*arrays)

    return call


def _copies(case: Case, outward: bool) -> Passes:
    """Counts the exchange's loops.

    Two tell every peer; one goes over peers, in it one over a peer's experts, in it one
    over the rows to take (or, homeward, over copies of the largest size; the smaller
    ones lie under branches too short to count apart). The last two wait. On v7x a copy
    is started by short loops of its own, of known length.
    """
    choices, peers = case.tokens * case.per_token, case.devices
    largest = min(kernel.LARGEST, case.most_rows())
    each = choices if outward else case.experts * (choices // case.experts // largest)
    waits = choices // largest
    expected = [peers - 1, peers - 1, peers, case.experts, each, waits, waits]

    def passes(regions: Sequence[Region]) -> list[int | None]:
        loops = [i for i, region in enumerate(regions) if region.kind == "loop"]
        own = [*loops[:_BEFORE], *loops[_BEFORE - len(expected) :]]
        counts: list[int | None] = [None] * len(regions)
        for i, count in zip(own, expected, strict=True):
            counts[i] = count
        for i in set(loops) - set(own):
            around = each if regions[i].depth > regions[own[-3]].depth else case.experts
            counts[i] = around * (regions[i].limit or 1)
        return counts

    return passes


def _grid(steps: int, inside: Sequence[int] = ()) -> Passes:
    """Counts a grid's loop, what the largest branch in it does, and loops in that."""

    def passes(regions: Sequence[Region]) -> list[int | None]:
        loops = [i for i, region in enumerate(regions) if region.kind == "loop"]
        counts: list[int | None] = [None] * len(regions)
        for i, count in zip(loops, [steps + STAGES, *inside], strict=True):
            counts[i] = count
        branches = [region for region in regions if region.kind == "branch"]
        largest = max(branches, key=lambda region: region.bundles)
        counts[regions.index(largest)] = steps
        return counts

    return passes


def _sum(steps: int) -> Passes:
    """Counts the sum's grid, and its loops over the tokens whose copies they start.

    One is for the first step, one for each next one. A single step has no grid.
    """
    if steps == 1:
        return listed(("loop", weigh.TOKENS))
    return _grid(steps, [weigh.TOKENS, weigh.TOKENS * (steps - 1)])
