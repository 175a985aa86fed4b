"""The door: checks the arguments, chooses blocks and an implementation."""

from typing import NamedTuple

import jax.numpy as jnp
from jax.experimental import pallas as pl

from r1jax.errors import ConfigError
from r1jax.pallas.backend import Backend
from r1jax.pallas.chips import Chip, fit
from r1jax.pallas.flash_prefill import gpu, launch, reference
from r1jax.pallas.flash_prefill.blocks import Blocks, choose
from r1jax.pallas.flash_prefill.reference import Bounds
from r1jax.typing import Array, Float, Int, typechecked

_LANES = 128


class Share(NamedTuple):
    """Attention over some of the context, not yet divided by the softmax's sum.

    Attributes:
      mixed: Values weighed by exp(score - peak), float32 [N, T, W].
      peak: The largest score, float32 [N, T, 1].
      total: Sum of exp(score - peak), float32 [N, T, 1].
    """

    mixed: Array
    peak: Array
    total: Array


@typechecked
def flash_prefill(
    q: Float[Array, "N T H"],
    k: Float[Array, "K S Hk"],
    v: Float[Array, "K W S"],
    *,
    k_rope: Float[Array, "S R"] | None = None,
    prefix: Int[Array, ""],
    length: Int[Array, ""],
    keys: Int[Array, ""] | None = None,
    scale: float,
    backend: Backend,
    blocks: Blocks | None = None,
    partial: bool = False,
) -> Float[Array, "N T W"] | Share:
    """Attends a chunk of T tokens to a prefix and causally to itself.

    Heads come first and values come as [W, S]: a projection writes either order at the
    same cost, and the kernel needs these. The kernel multiplies q by the scale before
    the product with k, in float32, and rounds it to q's dtype once more.

    Args:
      q: Queries; the first one has position `prefix`. T is a multiple of 128 for the
        kernel.
      k: Keys, in the order of their positions, room for unseen ones after them. N / K
        query heads share each key head. As wide as q, or H - R wide if `k_rope` is
        there.
      v: Values, of any width.
      k_rope: The last R columns of the keys of every head (expanded MLA): so they are
        neither repeated for the heads nor joined to the rest in HBM. R is at most 128
        and H - R a multiple of 128.
      prefix: Tokens before the chunk.
      length: How many of the queries are real; the others give zeros (and peak -1e30,
        total 0). What lies behind them in q, k and v may be anything.
      keys: How many of the keys are there, 1 to S; prefix + length if absent. Fewer
        where the rest of the context lies elsewhere, as for a share of it.
      scale: Multiplies the scores.
      backend: Which form runs.
      blocks: How the kernel cuts the work; by the chip's table if absent.
      partial: Return a `Share` to be merged with others.

    Raises:
      ConfigError: Shapes or blocks that do not divide or do not fit into VMEM.
    """
    _check_heads(q, k, k_rope)
    bounds = Bounds(prefix, length, prefix + length if keys is None else keys)
    if backend.kind in ("tpu", "interpret"):
        arrays = _Arrays(q, k, v, k_rope)
        share = _kernel(arrays, bounds, scale, backend, blocks, partial)
        return share if partial else share.mixed
    if k_rope is not None:
        shared = jnp.broadcast_to(k_rope[None], (k.shape[0], *k_rope.shape))
        k = jnp.concatenate([k, shared], axis=-1)
    if backend.kind == "gpu":
        found = gpu.flash_prefill(
            *(q, k, v, prefix, length),
            key_count=keys,
            scale=scale,
            partial=partial,
        )
        return Share(*found) if isinstance(found, tuple) else found
    share = Share(*reference.flash_prefill(q, k, v, bounds, scale))
    if partial:
        return share
    total = jnp.where(share.total > 0, share.total, 1)
    return (share.mixed / total).astype(v.dtype)


class _Arrays(NamedTuple):
    q: Array
    k: Array
    v: Array
    k_rope: Array | None


def _check_heads(q: Array, k: Array, k_rope: Array | None) -> None:
    shared = 0 if k_rope is None else k_rope.shape[1]
    if q.shape[0] % k.shape[0]:
        raise ConfigError(
            f"{q.shape[0]} query heads for {k.shape[0]} key heads",
            "every key head serves the same number of query heads",
            "give N = K G query heads",
        )
    if (
        q.shape[2] != k.shape[2] + shared
        or shared > _LANES
        or (shared and k.shape[2] % _LANES)
    ):
        raise ConfigError(
            f"queries {q.shape[2]} wide for keys of {k.shape[2]} and {shared} shared",
            f"they are multiplied column by column; shared ones fill up to {_LANES} "
            f"lanes after a multiple of {_LANES}",
            "give H = Hk + R",
        )


def _kernel(
    arrays: _Arrays,
    bounds: Bounds,
    scale: float,
    backend: Backend,
    blocks: Blocks | None,
    partial: bool,
) -> Share:
    q, k, v, shared = arrays
    if backend.chip is None:
        raise ConfigError(
            "flash_prefill does not know for which chip to compile",
            "block sizes and VMEM differ by generation",
            "use backend.for_device or backend.interpreted",
        )
    if q.shape[1] % _LANES:
        raise ConfigError(
            f"flash_prefill got {q.shape[1]} queries",
            f"the kernel lays queries along lanes, {_LANES} at a time",
            "pad the chunk and say in `length` how many are real",
        )
    flops = _flops(q, k, v)
    if shared is not None:
        # In tiles of 128 lanes the zeros take no room that is not taken anyway.
        more = _LANES - shared.shape[1]
        q = jnp.pad(q, ((0, 0), (0, 0), (0, more)))
        shared = jnp.pad(shared, ((0, 0), (0, more)))
    blocks = blocks or choose(q.shape[1], k.shape[1], q.shape[2], backend.chip)
    _check(blocks, q.shape[1])
    mixed, *shares = launch.flash(
        q,
        k,
        v,
        shared,
        jnp.stack(bounds).astype(jnp.int32),
        scale=scale,
        blocks=blocks,
        partial=partial,
        backend=backend,
        vmem=_vmem(q, v, blocks, partial, k.shape[1] > blocks.held_k, backend.chip),
        cost=_cost(q, k, v, blocks, flops),
    )
    # [N, 1, T] to [N, T, 1]: a trailing 1 would fill a tile's 128 lanes in the kernel.
    peak, total = [s.mT for s in shares] or (mixed, mixed)
    return Share(mixed, peak, total)


def _check(blocks: Blocks, queries: int) -> None:
    q, k, part, held_q, held_k = blocks
    if (
        any(size % _LANES for size in blocks)
        or queries % held_q
        or held_q % q
        or held_k % k
        or k % part
    ):
        raise ConfigError(
            f"flash_prefill cannot cut {queries} queries by {blocks}",
            f"every size is a multiple of {_LANES}; q divides held_q, held_q the "
            "queries, part divides k, and k divides held_k",
            "choose other blocks, or leave them to the table",
        )


def _vmem(
    q: Array, v: Array, blocks: Blocks, partial: bool, chunked: bool, chip: Chip
) -> int:
    """Returns the VMEM limit after checking that the buffers fit."""
    wide, width = -(-q.shape[2] // _LANES) * _LANES, v.shape[1]
    wide_out = -(-width // _LANES) * _LANES
    item, tile = q.dtype.itemsize, blocks.k * blocks.q
    return fit(
        "flash_prefill",
        {
            "q": 2 * blocks.held_q * wide * item,
            "k": 2 * blocks.held_k * wide * item,
            "v": 2 * blocks.held_k * width * item,
            "out": 2 * blocks.held_q * wide_out * (4 if partial else item),
            "peak and total": 2 * 2 * 8 * blocks.held_q * 4 * partial,
            "scores": tile * 4,
            # What the compiler may keep beside its registers.
            "probabilities": tile * 4,
            "scaled q": blocks.q * wide * item,
            "accumulator": 2 * blocks.q * width * 4,
            "saved": blocks.held_q * (width + 16) * 4 * chunked,
        },
        chip,
    )


def _pairs(q: Array, k: Array) -> int:
    """Counts what a chunk sees behind a full prefix, for all heads."""
    heads, queries, keys = *q.shape[:2], k.shape[1]
    return heads * (queries * (keys - queries) + queries * (queries + 1) // 2)


def _flops(q: Array, k: Array, v: Array) -> int:
    return 2 * _pairs(q, k) * (q.shape[2] + v.shape[1])


def _cost(q: Array, k: Array, v: Array, blocks: Blocks, flops: int) -> pl.CostEstimate:
    item, chunked = q.dtype.itemsize, k.shape[1] > blocks.held_k
    times = (len(q) // len(k) if chunked else 1) * (q.shape[1] // blocks.held_q)
    columns = q.size + len(q) * q.shape[1] * v.shape[1] + times * (k.size + v.size)
    return pl.CostEstimate(
        flops=flops,
        transcendentals=_pairs(q, k),
        bytes_accessed=columns * item,
    )
