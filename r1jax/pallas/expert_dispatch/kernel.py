"""The exchange of rows by remote copies, for the devices of one slice.

A row is one contiguous run of bytes in HBM, so that it can be copied alone, and rows
that lie together can be copied together. A copy has a static size, so a run goes as
copies of powers of two. Outward, the copies also do the sorting: they take each row
from its token, and no sorted copy is made before. Every copy is started before any is
waited for.

    barrier      every peer is inside, so its memory may be written
    start        all copies, the next peer's first, so that no peer is everyone's first
    wait         for all that arrives and all that leaves, by bytes
    leave        when every peer is past the barrier: the next call uses it again
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from r1jax.pallas.backend import Backend
from r1jax.pallas.expert_dispatch.plan import Axis, Runs
from r1jax.typing import Array, Int

LARGEST = 64  # rows of one copy: 896 KiB of R1's
_COLLECTIVE = 5  # the barrier that these kernels share
Ref = Any


def exchange(
    wire: Array,
    runs: Runs,
    token: Int[Array, " TX"] | None,
    axis: Axis,
    capacity: int,
    backend: Backend,
) -> Array:
    """Returns [capacity, ...] with the runs of all senders where they belong.

    Args:
      wire: The rows, [rows, packing, D / packing].
      runs: What to send.
      token: Outward, the row of `wire` for each sorted choice. None homeward, where
        `wire` is sorted itself.
      axis: The devices.
      capacity: Rows of the result. A row that no run covers holds anything.
      backend: The chip, or the simulator.
    """
    at_home = jax.lax.dynamic_index_in_dim(
        runs.rows.reshape(axis.size, -1).sum(1), axis.here, keepdims=False
    )
    totals = jnp.stack([runs.rows.sum() - at_home, runs.arriving.sum()])
    tables = [runs.first, runs.rows, runs.to, totals]
    tables += [] if token is None else [token]
    row_bytes = wire[0].size * wire.dtype.itemsize
    most = min(capacity, len(wire) if token is None else len(token))
    params = pltpu.InterpretParams(detect_races=backend.detect_races)
    return pl.pallas_call(
        _kernel(axis, gathers=token is not None),
        out_shape=jax.ShapeDtypeStruct((capacity, *wire.shape[1:]), wire.dtype),
        in_specs=[pl.BlockSpec(memory_space=pltpu.SMEM)] * len(tables)
        + [pl.BlockSpec(memory_space=pltpu.HBM)],
        out_specs=pl.BlockSpec(memory_space=pltpu.HBM),
        scratch_shapes=[
            pltpu.SemaphoreType.DMA,
            pltpu.SemaphoreType.DMA,
            pltpu.SemaphoreType.REGULAR,
        ],
        compiler_params=pltpu.CompilerParams(collective_id=_COLLECTIVE),
        cost_estimate=pl.CostEstimate(
            flops=0,
            transcendentals=0,
            bytes_accessed=2 * most * row_bytes,
            remote_bytes_transferred=most * row_bytes * (axis.size - 1) // axis.size,
        ),
        interpret=params if backend.kind == "interpret" else False,
        name="expert_dispatch" if token is not None else "expert_combine",
    )(*tables, wire)


def _kernel(axis: Axis, gathers: bool) -> Callable[..., None]:
    """Returns the kernel; `gathers` adds the table of the rows to take."""

    def kernel(first_ref: Ref, rows_ref: Ref, to_ref: Ref, *refs: Ref) -> None:
        totals_ref, *table, wire_ref, out_ref, sent, received, past = refs
        me = _index(axis)
        largest = min(_power(wire_ref), _power(out_ref))
        _enter(axis, me, past)

        def start(peer: Array, source: Array, to: Array, size: int) -> None:
            src, dst = wire_ref.at[pl.ds(source, size)], out_ref.at[pl.ds(to, size)]

            @pl.when(peer == me)
            def _() -> None:
                pltpu.make_async_copy(src, dst, received).start()

            @pl.when(peer != me)
            def _() -> None:
                pltpu.make_async_remote_copy(
                    src, dst, sent, received, device_id=_coordinates(axis, peer)
                ).start()

        def start_run(run: Array, peer: Array) -> None:
            first, rows, to = first_ref[run], rows_ref[run], to_ref[run]
            if gathers:

                @pl.loop(0, rows)
                def _(i: Array) -> None:
                    start(peer, table[0][first + i], to + i, 1)

            else:
                _pieces(rows, largest, lambda i, n: start(peer, first + i, to + i, n))

        runs = rows_ref.shape[0] // axis.size

        @pl.loop(0, axis.size)
        def _(step: Array) -> None:
            peer = _wrapped(axis, me + 1 + step)
            pl.loop(0, runs)(lambda i: start_run(peer * runs + i, peer))

        for total, semaphore in ((0, sent), (1, received)):
            _pieces(totals_ref[total], largest, _waiter(out_ref, semaphore))
        pl.semaphore_wait(past, axis.size - 1)

    return kernel


def _enter(axis: Axis, me: Array, past: Ref) -> None:
    """Waits until every peer has entered, and tells them that this device has seen it.

    A device that nobody sends to would otherwise be done before a slow peer has left
    the barrier, and its signal in the next call would stand for another's in this one.
    """
    barrier = pltpu.get_barrier_semaphore()

    def tell_all(semaphore: Ref) -> None:
        @pl.loop(1, axis.size)
        def _(step: Array) -> None:
            peer = _coordinates(axis, _wrapped(axis, me + step))
            pl.semaphore_signal(semaphore, 1, device_id=peer)

    tell_all(barrier)
    pl.semaphore_wait(barrier, axis.size - 1)
    tell_all(past)


def _pieces(rows: Array, largest: int, do: Callable[[Array, int], None]) -> None:
    """Cuts `rows` into powers of two and calls `do` with each offset and size."""
    shift = largest.bit_length() - 1

    @pl.loop(0, jax.lax.shift_right_logical(rows, shift))
    def _(i: Array) -> None:
        do(i * largest, largest)

    for bit in reversed(range(shift)):
        size = 1 << bit
        pl.when(rows & size != 0)(functools.partial(do, rows & (-2 * size), size))


def _waiter(ref: Ref, semaphore: Ref) -> Callable[[Array, int], None]:
    """Returns what waits for a number of rows, whichever they are."""

    def wait(_: Array, size: int) -> None:
        rows = ref.at[pl.ds(0, size)]
        pltpu.make_async_copy(rows, rows, semaphore).wait()

    return wait


def _power(ref: Ref) -> int:
    """Returns the most rows that one copy may have: a power of two."""
    return 1 << (min(LARGEST, ref.shape[0]).bit_length() - 1)


def _wrapped(axis: Axis, index: Array) -> Array:
    return jnp.where(index >= axis.size, index - axis.size, index)


def _index(axis: Axis) -> Array:
    """Returns this device's place along the axis, inside a kernel."""
    index = jnp.int32(0)
    for name in axis.names:
        index = index * jax.lax.axis_size(name) + jax.lax.axis_index(name)
    return index


def _coordinates(axis: Axis, index: Array) -> dict[Any, int | Array]:
    """Returns a device of the axis by its mesh axes; on all others it is as this."""
    place: dict[Any, int | Array] = {}
    for name in reversed(axis.names):
        size = jax.lax.axis_size(name)
        place[name], index = jax.lax.rem(index, size), jax.lax.div(index, size)
    return place
