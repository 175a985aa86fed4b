"""Grouped matmul for NVIDIA GPUs, through Pallas and Triton.

A work item is a tile of one expert's rows; a program multiplies it with one tile of
columns. Tiles begin where an expert's rows begin, so no row is computed twice, and an
expert without rows has no item: its weights are never read.

Not measured: speed. Block sizes come from arithmetic (`blocks_for`): bytes that a loop
keeps in flight, registers that the sums take, and programs enough for a big GPU.
Compiled with them for compute capability 8.0 and 9.0, R1's shapes spill no registers.
float8 weights need 8.9: Triton ends the process on older GPUs.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from r1jax.errors import ConfigError
from r1jax.typing import Array

# Shared memory of a program, under the 163 KiB of an A100 (an H100 has 227).
_SHARED = 160 * 2**10
# Of an H100; a grid should have a program for each.
_PROCESSORS = 132


class Blocks(NamedTuple):
    """The size of a tile, powers of two of at least 16, and how it is run.

    Attributes:
      rows: Rows in a work item.
      depth: Terms of the sum in one pass of the loop.
      columns: Columns of the result.
      warps: Of a program.
      stages: Passes whose loads are in flight.
    """

    rows: int
    depth: int
    columns: int
    warps: int
    stages: int


class Items(NamedTuple):
    """Work items, int32 arrays of one entry each.

    Attributes:
      expert: Whose rows; E for rows of no expert.
      start: The first row.
      end: After the expert's last row; not after `start` for an empty item.
    """

    expert: Array
    start: Array
    end: Array


def grouped_matmul(
    rows: Array,
    sizes: Array,
    weights: Array,
    scales: Array | None = None,
    *,
    first: Array | None = None,
    blocks: Blocks | None = None,
    interpret: bool = False,
) -> Array:
    """Multiplies each expert's rows by its matrix.

    Args:
      rows: Sorted by expert, [M, D], bfloat16 or float32.
      sizes: Rows of each expert, int32 [E]; their sum is at most M.
      weights: [E, D, F], or [E, D, 2, F] for gate and up; of the rows' dtype, or int8
        or float8_e4m3fn with `scales`. More experts than E with `first`.
      scales: Of each column, float32 [E, F] or [E, 2, F].
      first: Which of the weights is the first of these E, an int32 scalar: a layer's
        experts are read where they lie in all layers', not copied.
      blocks: Tile sizes; chosen by `blocks_for` when not given.
      interpret: Whether to simulate the kernel, on any machine.

    Returns:
      [M, F] in the rows' dtype: the product, or silu(gate) * up. Rows after the sizes'
      sum are zero.

    Raises:
      ConfigError: Weights that Triton's offsets, or a given tile that shared memory,
        cannot hold.
    """
    count, width = rows.shape
    experts, columns = len(sizes), weights.shape[-1]
    gates = weights.shape[2] if weights.ndim == 4 else 1
    if blocks is None:
        blocks = blocks_for(
            (experts, count, width, columns), gates, rows.dtype, weights.dtype
        )
    _check(weights, blocks, shared_bytes(blocks, gates, rows.dtype, weights.dtype))
    items = work_items(sizes, count, blocks.rows)
    first = jnp.int32(0) if first is None else first.astype(jnp.int32)
    kernel = functools.partial(_grouped_matmul, blocks=blocks, experts=experts)
    return pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct((count, columns), rows.dtype),
        # Columns vary fastest: the items that run together share an expert's matrix.
        grid=(pl.cdiv(columns, blocks.columns), len(items.expert)),
        compiler_params=plgpu.CompilerParams(
            num_warps=blocks.warps, num_stages=blocks.stages
        ),
        interpret=interpret,
        cost_estimate=_cost(rows, experts, weights),
        name="grouped_matmul",
    )(
        *items,
        first.reshape(1),
        rows,
        weights.reshape(-1, width, gates * columns),
        *(() if scales is None else (scales.reshape(experts, -1),)),
    )


def blocks_for(
    sizes: tuple[int, int, int, int],
    gates: int,
    dtype: jnp.dtype,
    stored: jnp.dtype,
) -> Blocks:
    """Returns tile sizes.

    Args:
      sizes: Experts, rows, depth and columns (E, M, D, F).
      gates: 2 where gate and up are fused, else 1.
      dtype: Of the rows.
      stored: Of the weights.
    """
    experts, count, width, columns = sizes
    tall = _between(16, count // experts, 128)
    wide = _between(16, columns, 128 // gates)
    # A short batch has few items: narrower tiles keep the whole GPU reading.
    items = _most_items(min(experts, count), count, tall)
    while wide > 32 and pl.cdiv(columns, wide) * items < _PROCESSORS:
        wide //= 2
    deep = _between(16, width, 128 // jnp.dtype(dtype).itemsize)
    warps = 8 if tall * wide * gates > 8192 else 4
    blocks = Blocks(tall, deep, wide, warps, 4)
    while blocks.stages > 1 and shared_bytes(blocks, gates, dtype, stored) > _SHARED:
        blocks = blocks._replace(stages=blocks.stages - 1)
    return blocks


def shared_bytes(
    blocks: Blocks, gates: int, dtype: jnp.dtype, stored: jnp.dtype
) -> int:
    """Returns the most shared memory that a program needs, by its tiles."""
    dtype, stored = jnp.dtype(dtype), jnp.dtype(stored)
    taken = blocks.rows * blocks.depth * dtype.itemsize
    matrix = gates * blocks.depth * blocks.columns
    converted = 0 if stored == dtype else matrix * dtype.itemsize
    return blocks.stages * (taken + matrix * stored.itemsize) + converted


def work_items(sizes: Array, rows: int, tile: int) -> Items:
    """Cuts each expert's rows into tiles; the rows of no expert follow as one more."""
    ends = jnp.minimum(jnp.cumsum(sizes.astype(jnp.int32)), rows)
    ends = jnp.concatenate([ends, jnp.full((1,), rows, jnp.int32)])
    starts = jnp.concatenate([jnp.zeros((1,), jnp.int32), ends[:-1]])
    tiles = -(-(ends - starts) // tile)
    last = jnp.cumsum(tiles)
    numbers = jnp.arange(_most_items(len(ends), rows, tile), dtype=jnp.int32)
    expert = jnp.searchsorted(last, numbers, side="right", method="compare_all")
    expert = jnp.minimum(expert, len(sizes)).astype(jnp.int32)
    start = starts[expert] + (numbers - (last - tiles)[expert]) * tile
    return Items(expert, start, ends[expert])


def _grouped_matmul(  # type: ignore[no-untyped-def]
    expert_ref,
    start_ref,
    end_ref,
    first_ref,
    rows_ref,
    weights_ref,
    *refs,
    blocks,
    experts,
):
    """Computes one work item's tile of columns."""
    *scales_ref, out_ref = refs
    _, width, both = weights_ref.shape
    columns = out_ref.shape[1]
    column, item = pl.program_id(0) * blocks.columns, pl.program_id(1)
    expert, start = expert_ref[item], start_ref[item]
    owned = expert < experts
    known = jnp.minimum(expert, experts - 1)
    matrix = first_ref[0] + known
    tile = pl.ds(start, blocks.rows)
    inside = (start + jnp.arange(blocks.rows) < end_ref[item])[:, None]
    kept = (column + jnp.arange(blocks.columns) < columns)[None, :]
    gates = [pl.ds(column + at, blocks.columns) for at in range(0, both, columns)]

    def step(i, sums):  # type: ignore[no-untyped-def]
        depth = i * blocks.depth
        terms = pl.ds(depth, blocks.depth)
        real = depth + jnp.arange(blocks.depth) < width
        # A mask along contiguous values costs Triton its wide loads: only at need.
        ragged = width % blocks.depth > 0
        left = inside & real[None, :] if ragged else inside
        right = kept & real[:, None] if ragged else kept
        row = plgpu.load(rows_ref.at[tile, terms], mask=left, other=0)
        masked = ragged or columns % blocks.columns > 0
        products = []
        for gate in gates:
            weight = _load(weights_ref.at[matrix, terms, gate], right, masked)
            products.append(_dot(row, weight.astype(row.dtype)))
        return tuple(s + p for s, p in zip(sums, products, strict=True))

    zeros = jnp.zeros((blocks.rows, blocks.columns), jnp.float32)
    steps = owned.astype(jnp.int32) * pl.cdiv(width, blocks.depth)
    sums = jax.lax.fori_loop(0, steps, step, (zeros,) * len(gates))
    for scales in scales_ref:
        sums = tuple(
            s * plgpu.load(scales.at[pl.ds(known, 1), gate], mask=kept & owned, other=0)
            for s, gate in zip(sums, gates, strict=True)
        )
    result = sums[0] if len(sums) == 1 else sums[0] * _sigmoid(sums[0]) * sums[1]
    target = out_ref.at[tile, pl.ds(column, blocks.columns)]
    plgpu.store(target, result.astype(out_ref.dtype), mask=inside & kept)


def _load(ref, mask, masked):  # type: ignore[no-untyped-def]
    return plgpu.load(ref, mask=mask, other=0) if masked else plgpu.load(ref)


def _dot(a: Array, b: Array) -> Array:
    """Multiplies with float32 sums; float32 operands are not rounded to TF32."""
    return plgpu.dot(a, b, precision=jax.lax.Precision.HIGHEST)


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + jnp.exp(-x))


def _cost(rows: Array, experts: int, weights: Array) -> pl.CostEstimate:
    """Returns the work, were every expert used that the rows could use."""
    (count, width), gates = rows.shape, weights.ndim - 2
    matrix = width * gates * weights.shape[-1]
    read = min(experts, count) * matrix * weights.dtype.itemsize
    moved = count * (width + weights.shape[-1]) * rows.dtype.itemsize
    return pl.CostEstimate(
        flops=2 * count * matrix,
        transcendentals=count * weights.shape[-1] * (gates - 1),
        bytes_accessed=read + moved,
    )


def _most_items(groups: int, rows: int, tile: int) -> int:
    """Returns how many items there can be: none is empty, and each group rounds up."""
    return min(rows, (rows + min(groups, rows) * (tile - 1)) // tile)


def can_address(weights: Array) -> bool:
    """Tells whether Triton's offsets reach all of the weights.

    They have 32 bits up to 2^32 bytes, signed: too few for bytes.
    """
    return weights.dtype.itemsize > 1 or not 2**31 < weights.size <= 2**32


def _between(low: int, value: int, high: int) -> int:
    return max(low, min(pl.next_power_of_2(value), high))


def _check(weights: Array, blocks: Blocks, needed: int) -> None:
    if needed > _SHARED:
        raise ConfigError(
            f"grouped_matmul by {blocks} would need {needed:,} bytes of shared memory",
            f"a program may use {_SHARED:,}",
            "choose smaller blocks or fewer stages",
        )
    if not can_address(weights):
        raise ConfigError(
            f"grouped_matmul cannot address {weights.size:,} one-byte weights",
            "Pallas gives Triton signed 32-bit offsets up to 4 GiB, and 64-bit after",
            "keep fewer than 2 GiB, or more than 4 GiB, of experts in one array",
        )
