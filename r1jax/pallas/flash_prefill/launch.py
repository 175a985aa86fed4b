"""Launches the TPU kernel: what each grid step holds of every array."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from r1jax.pallas.backend import Backend
from r1jax.pallas.flash_prefill.blocks import Blocks
from r1jax.pallas.flash_prefill.kernel import SUBLANES, kernel
from r1jax.typing import Array


def flash(
    q: Array,
    k: Array,
    v: Array,
    shared: Array | None,
    bounds: Array,
    *,
    scale: float,
    blocks: Blocks,
    partial: bool,
    backend: Backend,
    vmem: int,
    cost: pl.CostEstimate,
) -> tuple[Array, ...]:
    """Runs the kernel over q [N, T, H], k [K, S, H] and v [K, W, S].

    With `shared` [S, 128], k lacks the last 128 columns, which every head has from it.

    Returns the outputs [N, T, W]; with `partial` these in float32 before the division,
    and peak and total, both [N, 1, T].
    """
    heads, queries, keys, width = *q.shape[:2], k.shape[1], v.shape[1]
    grid = (heads, queries // blocks.held_q, pl.cdiv(keys, blocks.held_k))
    dtype = jnp.float32 if partial else v.dtype
    row = pl.BlockSpec((None, 1, blocks.held_q), lambda n, t, c, b: (n, 0, t))
    rows = jax.ShapeDtypeStruct((heads, 1, queries), jnp.float32)
    spec = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=1,
        grid=grid,
        in_specs=_inputs(q, k, v, shared, blocks),
        out_specs=[
            pl.BlockSpec((None, blocks.held_q, width), lambda n, t, c, b: (n, t, 0)),
            *[row] * (2 * partial),
        ],
        scratch_shapes=_scratch(q, width, blocks, chunked=grid[2] > 1),
    )
    return pl.pallas_call(
        functools.partial(
            kernel,
            scale=scale,
            blocks=blocks,
            partial=partial,
            shared=shared is not None,
        ),
        grid_spec=spec,
        out_shape=[
            jax.ShapeDtypeStruct((heads, queries, width), dtype),
            *[rows] * (2 * partial),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary"),
            vmem_limit_bytes=vmem,
        ),
        interpret=pltpu.InterpretParams(detect_races=backend.detect_races)
        if backend.kind == "interpret"
        else False,
        cost_estimate=cost,
        name="flash_prefill",
    )(bounds, q, k, v, *([] if shared is None else [shared]))


def _inputs(
    q: Array, k: Array, v: Array, shared: Array | None, blocks: Blocks
) -> list[pl.BlockSpec]:
    """Says what each grid step reads; where nothing is visible, what is there stays."""
    held_q, held_k = blocks.held_q, blocks.held_k
    group = q.shape[0] // k.shape[0]

    def query(n: Any, t: Any, c: Any, bounds: Any) -> tuple[Any, ...]:
        return n, jnp.minimum(t, jnp.maximum(bounds[1] - 1, 0) // held_q), 0

    def chunk(t: Any, c: Any, bounds: Any) -> Any:
        end = bounds[0] + jnp.minimum((t + 1) * held_q, bounds[1])
        end = jnp.minimum(end, bounds[2])
        last = jnp.maximum(end - 1, 0) // held_k
        return jnp.where(t * held_q < bounds[1], jnp.minimum(c, last), last)

    specs = [
        pl.BlockSpec((None, held_q, q.shape[2]), query),
        pl.BlockSpec(
            (None, held_k, k.shape[2]),
            lambda n, t, c, b: (n // group, chunk(t, c, b), 0),
        ),
        pl.BlockSpec(
            (None, v.shape[1], held_k),
            lambda n, t, c, b: (n // group, 0, chunk(t, c, b)),
        ),
    ]
    if shared is not None:
        of_all = pl.BlockSpec(
            (held_k, shared.shape[1]), lambda n, t, c, b: (chunk(t, c, b), 0)
        )
        specs.append(of_all)
    return specs


def _scratch(q: Array, width: int, blocks: Blocks, *, chunked: bool) -> list[Any]:
    held = blocks.held_q // blocks.q
    saved = [(held, width, blocks.q), (held, 1, blocks.q), (held, SUBLANES, blocks.q)]
    return [
        pltpu.VMEM((blocks.k, blocks.q), jnp.float32),
        pltpu.VMEM((blocks.q, q.shape[2]), q.dtype),
        pltpu.VMEM((width, blocks.q), jnp.float32),
        *[pltpu.VMEM(shape, jnp.float32) for shape in saved if chunked],
    ]
