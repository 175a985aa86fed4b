"""Rows in two layouts: as matrices use them, and as the exchange copies them.

A matrix [M, D] lies in tiles of eight rows or more, and bfloat16 keeps two rows in each
word, so no row can be copied alone. As [M, packing, D / packing], packing values to a
word of 32 bits, a row is contiguous. XLA can make the change, but of all rows that
there is room for; the kernels here change only those that are there.
"""

from typing import Any

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from r1jax.pallas import chips
from r1jax.pallas.backend import Backend
from r1jax.pallas.chips import CHIPS
from r1jax.typing import Array, Float, Int

BLOCK = 64  # rows at once; the change keeps up with HBM from 32 on


def packing(x: Array) -> int:
    """Returns how many values make a word."""
    return 4 // x.dtype.itemsize


def as_wire(x: Float[Array, "T D"]) -> Array:
    """Returns all rows for the exchange; by XLA, for inputs that have no empty rows."""
    return x.reshape(len(x), packing(x), -1)


def pack(rows: Float[Array, "M D"], used: Int[Array, ""], backend: Backend) -> Array:
    """Returns the first `used` rows for the exchange; the rest holds anything."""
    width = rows.shape[1] // packing(rows)
    shape = (len(rows), packing(rows), width)
    return _change(rows, shape, used, backend, "expert_pack")


def unpack(wire: Array, used: Int[Array, ""], backend: Backend) -> Float[Array, "M D"]:
    """Returns the first `used` rows as a matrix; the rest holds anything."""
    shape = (len(wire), wire[0].size)
    return _change(wire, shape, used, backend, "expert_unpack")


def _change(
    x: Array,
    shape: tuple[int, ...],
    used: Int[Array, ""],
    backend: Backend,
    name: str,
) -> Array:
    block = min(BLOCK, len(x))
    size = block * x[0].size * x.dtype.itemsize
    limit = chips.fit(
        name, {"in": 2 * size, "out": 2 * size}, backend.chip or CHIPS["v6e"]
    )

    def spec(tail: tuple[int, ...]) -> pl.BlockSpec:
        return pl.BlockSpec((block, *tail), lambda i: (i,) + (0,) * len(tail))

    params = pltpu.InterpretParams(detect_races=backend.detect_races)
    return pl.pallas_call(
        _pack if len(shape) > x.ndim else _unpack,
        grid=(pl.cdiv(used, block),),
        in_specs=[spec(x.shape[1:])],
        out_specs=spec(shape[1:]),
        out_shape=jax.ShapeDtypeStruct(shape, x.dtype),
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=limit),
        cost_estimate=pl.CostEstimate(
            flops=0, transcendentals=0, bytes_accessed=2 * x.size * x.dtype.itemsize
        ),
        interpret=params if backend.kind == "interpret" else False,
        name=name,
    )(x)


def _unpack(wire_ref: Any, rows_ref: Any) -> None:
    rows_ref[...] = wire_ref[...].reshape(rows_ref.shape)


def _pack(rows_ref: Any, wire_ref: Any) -> None:
    # Part by part takes a third of the instructions that a reshape takes here.
    _, parts, width = wire_ref.shape
    for part in range(parts):
        wire_ref[:, part, :] = rows_ref[:, pl.ds(part * width, width)]
