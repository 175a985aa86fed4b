"""Paged decode attention for NVIDIA GPUs, through Pallas and Triton.

One kernel serves both kinds of cache: a latent is one key head whose value is the first
lanes of its key. A program takes some query heads of one key head and a share of one
sequence's tokens, so that few sequences fill a GPU too; the shares are merged outside
by their peaks and totals (flash-decoding). A sequence's tokens are shared evenly, by
its own length.

Triton's tiles are powers of two: a width that is not one is cut into parts (576 =
512 + 64), each with its own loads and products.

Not measured: speed. Block sizes come from arithmetic (`blocks_for`); compiled with them
for compute capability 8.0 and 9.0, R1 and its distills spill no registers in bfloat16.
A float8 pool needs 8.9. Writing new entries needs no kernel: a scatter into a donated
pool is done in place.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from r1jax.errors import ConfigError
from r1jax.pallas.paged.pool import Partial
from r1jax.typing import Array

MASKED = -1e30
# The smallest side of a product's operand.
SMALLEST = 16
# Shared memory of a program, under the 163 KiB of an A100 (an H100 has 227).
SHARED = 160 * 2**10
# A grid should have two programs for each of an H100's 132 processors.
_PROGRAMS = 264
_MOST_SPLITS = 32


class Part(NamedTuple):
    """A run of lanes that is one tile; `size` is a power of two, `real` may be less."""

    lane: int
    size: int
    real: int


class Blocks(NamedTuple):
    """The size of a tile, powers of two of at least 16, and how it is run.

    Attributes:
      heads: Query heads of one key head.
      tokens: Tokens in one pass of the loop.
      splits: Shares of a sequence.
      warps: Of a program.
      stages: Passes at work at once, looking up pages, loading or computing; Triton
        keeps one buffer with 3 and two with 5.
    """

    heads: int
    tokens: int
    splits: int
    warps: int
    stages: int


def decode(
    q: Array,
    pool: Array,
    layer: Array,
    page_table: Array,
    lengths: Array,
    *,
    scale: float,
    value_width: int | None = None,
    scales: Array | None = None,
    partial: bool = False,
    blocks: Blocks | None = None,
    interpret: bool = False,
) -> Array | Partial:
    """Attends with one query token a sequence to its pages.

    Args:
      q: [B, N, E], bfloat16 or float32; narrower than a latent's entry where that is
        stored padded.
      pool: Latents [L, P, Z, E], or keys with values beside them [L, P, K, Z, 2 H].
      layer: int32 scalar.
      page_table: Each sequence's pages in order, int32 [B, J].
      lengths: Tokens of each sequence here, int32 [B], at most J Z; 0 for no sequence.
      scale: Multiplies the scores.
      value_width: Of a latent, the lanes that are the value too (W).
      scales: With an int8 pool, float32 [L, P, A, Z]: A is 1 for latents, else 2 K, the
        K heads' keys first.
      partial: Whether the result is not divided, for merging with other shares.
      blocks: Tile sizes; chosen by `blocks_for` when not given.
      interpret: Whether to simulate the kernel, on any machine.

    Returns:
      [B, N, W] in the queries' dtype, zeros for no sequence; or a `Partial`.

    Raises:
      ConfigError: A pool that Triton's offsets, or given tiles that shared memory,
        cannot hold.
    """
    batch, heads, width = q.shape
    if pool.ndim == 4:
        pool, value_lane = pool[:, :, None], 0
        value_width = width if value_width is None else value_width
    else:
        value_lane = value_width = pool.shape[-1] // 2
    kv_heads, page = pool.shape[2:4]
    tokens = page_table.shape[1] * page
    keys, values = key_and_value(width, value_lane, value_width)
    if blocks is None:
        blocks = blocks_for(batch, heads, kv_heads, tokens, keys, values, q.dtype)
    _check(pool, blocks, shared_bytes(blocks, keys, values, q.dtype))
    kernel = functools.partial(
        _paged_decode, keys=keys, values=values, scale=scale, blocks=blocks
    )
    shape = (batch, blocks.splits, heads)
    share = pl.pallas_call(
        kernel,
        out_shape=(
            jax.ShapeDtypeStruct((*shape, value_width), jnp.float32),
            jax.ShapeDtypeStruct(shape, jnp.float32),
            jax.ShapeDtypeStruct(shape, jnp.float32),
        ),
        # Heads vary fastest: programs that run together read the same tokens.
        grid=(
            kv_heads * pl.cdiv(heads // kv_heads, blocks.heads),
            blocks.splits,
            batch,
        ),
        compiler_params=plgpu.CompilerParams(
            num_warps=blocks.warps, num_stages=blocks.stages
        ),
        interpret=interpret,
        cost_estimate=pl.CostEstimate(
            flops=2 * batch * heads * tokens * (width + value_width),
            transcendentals=batch * heads * tokens,
            bytes_accessed=batch
            * tokens
            * kv_heads
            * pool.shape[-1]
            * pool.dtype.itemsize,
        ),
        name="paged_decode",
    )(
        jnp.asarray(layer, jnp.int32).reshape(1),
        page_table,
        jnp.clip(lengths, 0, tokens),
        q,
        pool,
        *(() if scales is None else (scales,)),
    )
    merged = merge(Partial(*share), axis=1)
    return merged if partial else finish(merged).astype(q.dtype)


def merge(share: Partial, axis: int) -> Partial:
    """Joins shares of the same queries that lie along an axis."""
    peak = jnp.max(share.peak, axis, keepdims=True)
    weight = jnp.exp(share.peak - peak)
    mixed = jnp.sum(share.mixed * weight[..., None], axis)
    return Partial(mixed, peak.squeeze(axis), jnp.sum(share.total * weight, axis))


def finish(share: Partial) -> Array:
    """Divides by the softmax's sum; what saw nothing stays zero."""
    total = jnp.where(share.total > 0, share.total, 1)
    return share.mixed / total[..., None]


def cut(lane: int, width: int) -> tuple[Part, ...]:
    """Cuts lanes into tiles: 576 into 512 and 64, 192 into 128 and 64."""
    parts = []
    end = lane + width
    while lane < end:
        size = 1 << (end - lane).bit_length() - 1
        parts.append(
            Part(lane, max(size, SMALLEST), min(max(size, SMALLEST), end - lane))
        )
        lane += size if size >= SMALLEST else end - lane
    return tuple(parts)


def blocks_for(
    batch: int,
    heads: int,
    kv_heads: int,
    tokens: int,
    keys: tuple[Part, ...],
    values: tuple[Part, ...],
    dtype: jnp.dtype,
) -> Blocks:
    """Returns tile sizes.

    The sums of 32 heads of a latent (512 lanes) take 64 registers of each thread.
    """
    group = heads // kv_heads
    tall = max(SMALLEST, min(pl.next_power_of_2(group), 32))
    programs = batch * kv_heads * pl.cdiv(group, tall)
    blocks = Blocks(tall, 64, 1, 8 if tall > SMALLEST else 4, 5)
    while shared_bytes(blocks, keys, values, dtype) > SHARED:
        if blocks.tokens > SMALLEST:
            blocks = blocks._replace(tokens=blocks.tokens // 2)
        else:
            blocks = blocks._replace(stages=blocks.stages - 2)
    # A share shorter than four passes costs more to merge than it saves.
    most = min(_MOST_SPLITS, tokens // (4 * blocks.tokens))
    splits = 1
    while splits < most and splits * programs < _PROGRAMS:
        splits *= 2
    return blocks._replace(splits=splits)


def shared_bytes(
    blocks: Blocks,
    keys: tuple[Part, ...],
    values: tuple[Part, ...],
    dtype: jnp.dtype,
) -> int:
    """Returns the shared memory that a program needs, as Triton was seen to take it."""
    once = sum(part.size for part in keys)
    token = sum(part.size for part in {*keys, *values})
    taken = blocks.heads * (once + blocks.tokens)
    buffers = max((blocks.stages - 1) // 2, 1)
    return (taken + buffers * blocks.tokens * token) * jnp.dtype(dtype).itemsize


def _paged_decode(  # type: ignore[no-untyped-def]
    layer_ref,
    table_ref,
    lengths_ref,
    q_ref,
    pool_ref,
    *refs,
    keys,
    values,
    scale,
    blocks,
):
    """Attends with some heads to one share of one sequence."""
    *scales_ref, mixed_ref, peak_ref, total_ref = refs
    kv_heads, page_size = pool_ref.shape[2:4]
    group = q_ref.shape[1] // kv_heads
    run, split, row = (pl.program_id(axis) for axis in range(3))
    runs = pl.cdiv(group, blocks.heads)
    head, first = run // runs, run % runs * blocks.heads
    queries = head * group + first + jnp.arange(blocks.heads)
    wanted = first + jnp.arange(blocks.heads) < group
    layer, length = layer_ref[0], lengths_ref[row]
    passes = (length + blocks.tokens - 1) // blocks.tokens
    share = (passes + blocks.splits - 1) // blocks.splits
    q = [_queries(q_ref, row, queries, wanted, part) for part in keys]

    def step(i, carry):  # type: ignore[no-untyped-def]
        mixed, peak, total = carry
        at = i * blocks.tokens + jnp.arange(blocks.tokens)
        there = at < length
        slot = jax.lax.rem(at, page_size)
        page = plgpu.load(
            table_ref.at[row, jax.lax.div(at, page_size)], mask=there, other=0
        )

        def lanes(part):  # type: ignore[no-untyped-def]
            lane = part.lane + jnp.arange(part.size)[None, :]
            mask = there[:, None] & (lane < part.lane + part.real)
            tile = pool_ref.at[layer, page[:, None], head, slot[:, None], lane]
            return plgpu.load(tile, mask=mask, other=0).astype(q[0].dtype)

        def scaled(x, offset):  # type: ignore[no-untyped-def]
            if not scales_ref:
                return x
            kind = head + offset if scales_ref[0].shape[2] > 1 else 0
            tile = scales_ref[0].at[layer, page, kind, slot]
            return x * plgpu.load(tile, mask=there, other=0)[None, :]

        tiles = {part: lanes(part) for part in (*keys, *values)}
        scores = sum(dot(a, tiles[part].T) for a, part in zip(q, keys, strict=True))
        scores = jnp.where(there[None, :], scaled(scores, 0) * scale, MASKED)
        higher = jnp.maximum(peak, jnp.max(scores, axis=1))
        weights = jnp.exp(scores - higher[:, None])
        old = jnp.exp(peak - higher)
        total = total * old + jnp.sum(weights, axis=1)
        weights = scaled(weights, kv_heads).astype(q[0].dtype)
        mixed = tuple(
            m * old[:, None] + dot(weights, tiles[part])
            for m, part in zip(mixed, values, strict=True)
        )
        return mixed, higher, total

    start = (
        tuple(jnp.zeros((blocks.heads, part.size), jnp.float32) for part in values),
        jnp.full((blocks.heads,), MASKED, jnp.float32),
        jnp.zeros((blocks.heads,), jnp.float32),
    )
    low = jnp.minimum(split * share, passes)
    high = jnp.minimum(low + share, passes)
    mixed, peak, total = jax.lax.fori_loop(low, high, step, start)
    plgpu.store(peak_ref.at[row, split, queries], peak, mask=wanted)
    plgpu.store(total_ref.at[row, split, queries], total, mask=wanted)
    for m, part in zip(mixed, values, strict=True):
        lane = part.lane - values[0].lane + jnp.arange(part.size)[None, :]
        mask = wanted[:, None] & (lane < part.lane - values[0].lane + part.real)
        plgpu.store(mixed_ref.at[row, split, queries[:, None], lane], m, mask=mask)


def _queries(q_ref, row, queries, wanted, part):  # type: ignore[no-untyped-def]
    lane = part.lane + jnp.arange(part.size)[None, :]
    mask = wanted[:, None] & (lane < part.lane + part.real)
    return plgpu.load(q_ref.at[row, queries[:, None], lane], mask=mask, other=0)


def dot(a: Array, b: Array) -> Array:
    """Multiplies with float32 sums; float32 operands are not rounded to TF32."""
    return plgpu.dot(a, b, precision=jax.lax.Precision.HIGHEST)


def key_and_value(
    width: int, value_lane: int, value_width: int
) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    """Returns the tiles of a key and of a value, which may be the same ones."""
    values = cut(value_lane, value_width)
    if value_lane > 0:
        return cut(0, width), values
    return (*values, *cut(value_width, width - value_width)), values


def _check(pool: Array, blocks: Blocks, needed: int) -> None:
    if needed > SHARED:
        raise ConfigError(
            f"paged decode with {blocks} would need {needed:,} bytes of shared memory",
            f"a program may use {SHARED:,}",
            "choose smaller blocks or fewer stages",
        )
    # Triton's offsets have 32 bits up to 2^32 bytes, signed: too few for bytes.
    if pool.dtype.itemsize == 1 and 2**31 < pool.size <= 2**32:
        raise ConfigError(
            f"paged decode cannot address a pool of {pool.size:,} one-byte values",
            "Pallas gives Triton signed 32-bit offsets up to 4 GiB, and 64-bit after",
            "choose a number of pages that keeps it below 2 GiB or above 4 GiB",
        )
