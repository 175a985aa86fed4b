"""The meaning: every device sees every token and keeps the rows of its experts.

One all-gather out and one reduce-scatter back. It runs everywhere, needs no plan of who
sends what, and moves each token to every device, whether it has work there or not.
"""

import jax
import jax.numpy as jnp

from r1jax.pallas.expert_dispatch.plan import Axis
from r1jax.typing import Array, Float, Int


def dispatch(
    x: Float[Array, "T D"],
    chosen: Int[Array, "T X"],
    own: int,
    axis: Axis,
    capacity: int,
    window: Array | int,
) -> tuple[Float[Array, "M D"], Int[Array, " own"]]:
    """Returns the rows of this device's experts, sorted by expert, and their number."""
    tokens = jax.lax.all_gather(x, axis.name, tiled=True)
    row_of, expert, sizes = _window(chosen, own, axis, capacity, window)
    rows = tokens[row_of // chosen.shape[1]]
    return jnp.where((expert < own)[:, None], rows, 0), sizes


def combine(
    rows: Float[Array, "M D"],
    weights: Float[Array, "T X"],
    chosen: Int[Array, "T X"],
    own: int,
    axis: Axis,
    window: Array | int,
) -> Float[Array, "T D"]:
    """Returns each token's rows of a window, weighted and summed, in float32."""
    all_weights = jax.lax.all_gather(weights, axis.name, tiled=True).reshape(-1)
    row_of, expert, _ = _window(chosen, own, axis, len(rows), window)
    terms = rows.astype(jnp.float32) * all_weights[row_of][:, None]
    terms = jnp.where((expert < own)[:, None], terms, 0)
    totals = jnp.zeros((axis.size * len(chosen), rows.shape[1]), jnp.float32)
    totals = totals.at[row_of // chosen.shape[1]].add(terms)
    return jax.lax.psum_scatter(totals, axis.name, tiled=True)


def _window(
    chosen: Int[Array, "T X"], own: int, axis: Axis, capacity: int, window: Array | int
) -> tuple[Int[Array, " M"], Int[Array, " M"], Int[Array, " own"]]:
    """Returns a window of all devices' choices sorted by own expert.

    For each row its choice, and its expert by local number, or `own` for none.
    """
    everyone = jax.lax.all_gather(chosen, axis.name, tiled=True).reshape(-1)
    local = everyone - axis.here * own
    local = jnp.where((local >= 0) & (local < own), local, own)
    order = jnp.argsort(local, stable=True)
    order = jnp.pad(order, (0, capacity))  # a window may begin or end past the end
    start = jnp.minimum(window * capacity, len(everyone))
    choice = jax.lax.dynamic_slice_in_dim(order, start, capacity)
    inside = start + jnp.arange(capacity) < len(everyone)
    expert = jnp.where(inside, local[choice], own)
    sizes = (expert[:, None] == jnp.arange(own)[None]).sum(0, dtype=jnp.int32)
    return choice, expert, sizes
