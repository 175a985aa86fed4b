"""Causal attention of chunks for NVIDIA GPUs: cuDNN where it can, else Triton.

cuDNN, through `jax.nn.dot_product_attention`, takes whole prompts of half precision
whose keys and values have one width of at most 128. It has no prefix (its causal mask
starts at the first key), and hands out no partial result: its log-sum-exp comes back
rounded to the values' dtype. Expanded latent attention (keys 192, values 128), chunks
with a prefix and float32 go to the Triton kernel, which skips the blocks that no query
of a tile sees and masks only those on the border.

Not measured: speed. Block sizes come from arithmetic (`blocks_for`); compiled with them
in bfloat16 for compute capability 9.0, R1 and its distills spill no registers, for 8.0
a few hundred bytes; so does float32, which is for checks, with 192 lanes.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from r1jax.errors import ConfigError
from r1jax.pallas.paged.gpu import MASKED, SHARED, SMALLEST, Part, cut, dot
from r1jax.typing import Array


class Blocks(NamedTuple):
    """The size of a tile, powers of two of at least 16, and how it is run.

    Attributes:
      queries: Query tokens of one head.
      keys: Keys in one pass of the loop.
      warps: Of a program.
      stages: Passes whose loads are in flight.
    """

    queries: int
    keys: int
    warps: int
    stages: int


def flash_prefill(
    q: Array,
    k: Array,
    v: Array,
    prefix: Array | None,
    length: Array,
    *,
    key_count: Array | None = None,
    scale: float,
    partial: bool = False,
    cudnn: bool = True,
    blocks: Blocks | None = None,
    interpret: bool = False,
) -> Array | tuple[Array, Array, Array]:
    """Attends a chunk of tokens to a prefix and causally to itself.

    Args:
      q: Queries [N, T, H], bfloat16 or float32; the first has position `prefix`.
      k: Keys [K, S, H].
      v: Values [K, W, S].
      prefix: Tokens before the chunk, an int32 scalar; None where it is known that
        there are none.
      length: How many of the queries are real, an int32 scalar. What lies behind them
        in q, k and v may be anything.
      key_count: How many of the keys are there, 1 to S; prefix + length if absent.
      scale: Multiplies the scores.
      partial: Whether the result is not divided, for merging with other shares.
      cudnn: Whether cuDNN may do it; tracing needs it installed where it is chosen.
      blocks: Tile sizes of the Triton kernel; chosen by `blocks_for` when not given.
      interpret: Whether to simulate the Triton kernel, on any machine.

    Returns:
      [N, T, W] in the values' dtype, zeros where a query is not real. Or float32
      undivided values, with the peak and the total [N, T, 1].

    Raises:
      ConfigError: Given tiles that shared memory cannot hold.
    """
    heads, tokens, width = q.shape
    value_width = v.shape[1]
    plain = not partial and not interpret and blocks is None
    plain &= prefix is None and key_count is None
    if cudnn and plain and suits_cudnn(width, value_width, q.dtype):
        return _by_cudnn(q, k, v, length, scale)
    if blocks is None:
        blocks = blocks_for(tokens, width, value_width, q.dtype)
    _check(blocks, shared_bytes(blocks, width, value_width, q.dtype))
    mixed = jax.ShapeDtypeStruct(
        (heads, tokens, value_width), jnp.float32 if partial else v.dtype
    )
    one = jax.ShapeDtypeStruct((heads, tokens), jnp.float32)
    prefix = jnp.int32(0) if prefix is None else prefix
    end = prefix + length if key_count is None else key_count
    result, *shares = pl.pallas_call(
        functools.partial(
            _flash_prefill,
            keys=cut(0, width),
            values=cut(0, value_width),
            scale=scale,
            blocks=blocks,
        ),
        out_shape=(mixed, one, one) if partial else (mixed,),
        grid=(pl.cdiv(tokens, blocks.queries), heads),
        compiler_params=plgpu.CompilerParams(
            num_warps=blocks.warps, num_stages=blocks.stages
        ),
        interpret=interpret,
        cost_estimate=_cost(q, k, v),
        name="flash_prefill",
    )(jnp.stack([prefix, length, end]).astype(jnp.int32), q, k, v)
    if not partial:
        return result
    peak, total = shares
    return result, peak[..., None], total[..., None]


def suits_cudnn(width: int, value_width: int, dtype: jnp.dtype) -> bool:
    """Tells whether cuDNN takes these heads on every GPU that JAX supports it on."""
    half = jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
    return half and width == value_width <= 128 and width % 8 == 0


def blocks_for(tokens: int, width: int, value_width: int, dtype: jnp.dtype) -> Blocks:
    """Returns tile sizes: large ones, made smaller until two stages fit."""
    # Products of float32 run on the ordinary units, from registers: small tiles.
    most = 128 if jnp.dtype(dtype).itemsize < 4 else 32
    tall = max(SMALLEST, min(pl.next_power_of_2(tokens), most))
    blocks = Blocks(tall, 64 if most > 64 else 16, 8 if tall == 128 else 4, 3)
    needed = functools.partial(
        shared_bytes, width=width, value_width=value_width, dtype=dtype
    )
    while needed(blocks._replace(stages=2)) > SHARED:
        if blocks.queries > blocks.keys:
            blocks = blocks._replace(queries=blocks.queries // 2, warps=4)
        else:
            blocks = blocks._replace(keys=blocks.keys // 2)
    return blocks if needed(blocks) <= SHARED else blocks._replace(stages=2)


def shared_bytes(blocks: Blocks, width: int, value_width: int, dtype: jnp.dtype) -> int:
    """Returns the most shared memory that a program needs, by its tiles."""
    key = sum(part.size for part in cut(0, width))
    value = sum(part.size for part in cut(0, value_width))
    once = blocks.queries * (key + blocks.keys)
    loop = blocks.stages * blocks.keys * (key + value)
    return (once + loop) * jnp.dtype(dtype).itemsize


def _flash_prefill(sizes_ref, q_ref, k_ref, v_ref, *refs, keys, values, scale, blocks):  # type: ignore[no-untyped-def]
    """Attends with one head's tile of queries."""
    heads, tokens = q_ref.shape[:2]
    # The last tiles see most keys: they start first.
    tile = (pl.num_programs(0) - 1 - pl.program_id(0)) * blocks.queries
    head = pl.program_id(1)
    kv_head = head // (heads // k_ref.shape[0])
    prefix, length = sizes_ref[0], jnp.minimum(sizes_ref[1], tokens)
    end = sizes_ref[2]
    token = tile + jnp.arange(blocks.queries)
    position = jnp.where(token < length, prefix + token, -1)[:, None]
    some = pl.ds(tile, blocks.queries)
    real = (token < length)[:, None]
    q = [_load(q_ref, head, (some, part), real) for part in keys]

    def attend(i, carry, border):  # type: ignore[no-untyped-def]
        mixed, peak, total = carry
        run = pl.ds(i * blocks.keys, blocks.keys)
        at = i * blocks.keys + jnp.arange(blocks.keys)
        down, along = (
            ((at < end)[:, None], (at < end)[None, :]) if border else (None,) * 2
        )
        k = [_load(k_ref, kv_head, (run, part), down) for part in keys]
        v = [_load(v_ref, kv_head, (part, run), along) for part in values]
        scores = sum(dot(a, b.T) for a, b in zip(q, k, strict=True)) * scale
        seen = (at[None, :] <= position) & (at < end)[None, :]
        if border:
            scores = jnp.where(seen, scores, MASKED)
        higher = jnp.maximum(peak, jnp.max(scores, axis=1))
        weights = jnp.exp(scores - higher[:, None])
        if border:  # to a query that has seen nothing, what is masked is the peak
            weights = jnp.where(seen, weights, 0)
        old = jnp.exp(peak - higher)
        total = total * old + jnp.sum(weights, axis=1)
        mixed = tuple(
            m * old[:, None] + dot(weights.astype(b.dtype), b.T)
            for m, b in zip(mixed, v, strict=True)
        )
        return mixed, higher, total

    start = (
        tuple(jnp.zeros((blocks.queries, part.size), jnp.float32) for part in values),
        jnp.full((blocks.queries,), MASKED, jnp.float32),
        jnp.zeros((blocks.queries,), jnp.float32),
    )
    last = jnp.minimum(prefix + jnp.minimum(tile + blocks.queries, length), end)
    passes = (last + blocks.keys - 1) // blocks.keys * (tile < length).astype(jnp.int32)
    # What the first query sees, all see; a tile with unreal queries is all border.
    full = (tile + blocks.queries <= length).astype(jnp.int32)
    inner = jnp.minimum(prefix + tile + 1, end) // blocks.keys * full
    carry = jax.lax.fori_loop(0, inner, lambda i, c: attend(i, c, False), start)
    share = jax.lax.fori_loop(inner, passes, lambda i, c: attend(i, c, True), carry)
    _store(refs, (head, some), share, values, token < tokens)


def _store(refs, where, share, values, inside):  # type: ignore[no-untyped-def]
    """Writes a share, divided unless its peak and total are wanted too."""
    mixed, peak, total = share
    divisor = jnp.where(total > 0, total, 1)
    if len(refs) == 3:
        plgpu.store(refs[1].at[*where], peak, mask=inside)
        plgpu.store(refs[2].at[*where], total, mask=inside)
        divisor = jnp.ones_like(total)
    for m, part in zip(mixed, values, strict=True):
        mask = inside[:, None] & (jnp.arange(part.size) < part.real)[None, :]
        result = (m / divisor[:, None]).astype(refs[0].dtype)
        plgpu.store(refs[0].at[*where, _lanes(part)], result, mask=mask)


def _load(ref, head, where, owned):  # type: ignore[no-untyped-def]
    """Loads a tile of a head's matrix; a mask is costly, so only where it is needed.

    Args:
      ref: The heads' matrices.
      head: Which one.
      where: A run of tokens and a `Part` of the lanes, in the matrix's order.
      owned: Which of the tokens may be read, as a mask of the tile; None for all.
    """
    [(axis, part)] = [(i, x) for i, x in enumerate(where) if isinstance(x, Part)]
    tile = ref.at[head, *(_lanes(x) if x is part else x for x in where)]
    mask = owned
    if part.real < part.size:
        lanes = jnp.arange(part.size) < part.real
        lanes = lanes[None, :] if axis else lanes[:, None]
        mask = lanes if owned is None else lanes & owned
    return plgpu.load(tile) if mask is None else plgpu.load(tile, mask=mask, other=0)


def _lanes(part: Part):  # type: ignore[no-untyped-def]
    # Pallas refuses a slice that is known to end outside; a masked one may.
    start = part.lane if part.real == part.size else jnp.int32(part.lane)
    return pl.ds(start, part.size)


def _by_cudnn(q: Array, k: Array, v: Array, length: Array, scale: float) -> Array:
    q, k, v = jnp.moveaxis(q, 0, 1), jnp.moveaxis(k, 0, 1), jnp.moveaxis(v, 2, 0)
    # What no one owns may be anything, and nothing times infinity is not nothing.
    owned = (jnp.arange(len(k)) < length)[:, None, None]
    k, v = jnp.where(owned, k, 0), jnp.where(owned, v, 0)
    lengths = length.astype(jnp.int32).reshape(1)
    mixed = jax.nn.dot_product_attention(
        q,
        k,
        v,
        scale=scale,
        is_causal=True,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )
    real = (jnp.arange(len(q)) < length)[:, None, None]
    return jnp.moveaxis(jnp.where(real, mixed, 0), 0, 1)


def _cost(q: Array, k: Array, v: Array) -> pl.CostEstimate:
    """Returns what a chunk costs behind a full prefix, each array moved once."""
    heads, tokens, width = q.shape
    pairs = heads * (tokens * (k.shape[1] - tokens) + tokens * (tokens + 1) // 2)
    moved = q.size + k.size + v.size + heads * tokens * v.shape[1]
    return pl.CostEstimate(
        flops=2 * pairs * (width + v.shape[1]),
        transcendentals=pairs,
        bytes_accessed=moved * q.dtype.itemsize,
    )


def _check(blocks: Blocks, needed: int) -> None:
    if needed > SHARED:
        raise ConfigError(
            f"flash prefill with {blocks} would need {needed:,} bytes of shared memory",
            f"a program may use {SHARED:,}",
            "choose smaller blocks or fewer stages",
        )
