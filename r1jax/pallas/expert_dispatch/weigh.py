"""The weighted sum of each token's rows, taken from wherever they lie.

XLA would gather all rows into one array, widen it to float32 and add it up: several
times their bytes. Here each row is read once, by its own copy, into VMEM; while some
tokens' rows are added, the next ones' are on their way.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from r1jax.pallas import chips
from r1jax.pallas.backend import Backend
from r1jax.pallas.chips import CHIPS
from r1jax.typing import Array, Bool, Float, Int

TOKENS = 16  # summed at once
Ref = Any


def total(
    wire: Array,
    position: Int[Array, "T X"],
    taken: Bool[Array, "T X"],
    weights: Float[Array, "T X"],
    backend: Backend,
) -> Float[Array, "T D"]:
    """Returns the sum over X of `weights` times the rows at `position`, in float32.

    Args:
      wire: The rows, [rows, packing, D / packing].
      position: Which rows.
      taken: Which of them count; the others may be anything.
      weights: What each is multiplied by.
      backend: The chip, or the simulator.
    """
    count, per_token = position.shape
    steps = pl.cdiv(count, TOKENS)
    padded = jnp.pad(position, ((0, steps * TOKENS - count), (0, 0)))
    width, itemsize = wire[0].size, wire.dtype.itemsize
    rows = TOKENS * per_token
    limit = chips.fit(
        "expert_sum",
        {
            "rows": 2 * rows * width * itemsize,
            "sums": 3 * TOKENS * width * 4,
            "weights and masks": 4 * TOKENS * 128 * 4,
        },
        backend.chip or CHIPS["v6e"],
    )
    narrow = pl.BlockSpec((TOKENS, per_token), lambda i, _: (i, 0))
    params = pltpu.InterpretParams(detect_races=backend.detect_races)
    return pl.pallas_call(
        functools.partial(_kernel, per_token=per_token),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(steps,),
            in_specs=[narrow, narrow, pl.BlockSpec(memory_space=pltpu.HBM)],
            out_specs=pl.BlockSpec((TOKENS, width), lambda i, _: (i, 0)),
            scratch_shapes=[
                pltpu.VMEM((2, rows, *wire.shape[1:]), wire.dtype),
                pltpu.SemaphoreType.DMA((2,)),
            ],
        ),
        out_shape=jax.ShapeDtypeStruct((count, width), jnp.float32),
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=limit),
        cost_estimate=pl.CostEstimate(
            flops=2 * count * per_token * width,
            transcendentals=0,
            bytes_accessed=count * width * (per_token * itemsize + 4),
        ),
        interpret=params if backend.kind == "interpret" else False,
        name="expert_sum",
    )(padded.reshape(-1), taken.astype(jnp.int32), weights, wire)


def _kernel(
    position_ref: Ref,
    taken_ref: Ref,
    weights_ref: Ref,
    wire_ref: Ref,
    out_ref: Ref,
    rows_ref: Ref,
    arrived: Ref,
    *,
    per_token: int,
) -> None:
    step = pl.program_id(0)

    def fetch(block: Array) -> None:
        slot = jax.lax.rem(block, 2)

        @pl.loop(0, TOKENS)
        def _(token: Array) -> None:
            for x in range(per_token):
                row = position_ref[(block * TOKENS + token) * per_token + x]
                pltpu.make_async_copy(
                    wire_ref.at[row],
                    rows_ref.at[slot, x * TOKENS + token],
                    arrived.at[slot],
                ).start()

    pl.when(step == 0)(lambda: fetch(step))
    pl.when(step + 1 < pl.num_programs(0))(lambda: fetch(step + 1))
    slot = jax.lax.rem(step, 2)
    rows = rows_ref.at[slot]
    pltpu.make_async_copy(rows, rows, arrived.at[slot]).wait()
    out_ref[...] = jnp.zeros(out_ref.shape, jnp.float32)
    for x in range(per_token):
        row = rows[pl.ds(x * TOKENS, TOKENS)].reshape(out_ref.shape)
        counts = taken_ref[:, pl.ds(x, 1)] > 0
        term = row.astype(jnp.float32) * weights_ref[:, pl.ds(x, 1)]
        out_ref[...] += jnp.where(counts, term, 0)
