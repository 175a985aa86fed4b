"""Mixture of experts: routed experts by few or by many tokens, and shared ones."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from r1jax.cache import Batch
from r1jax.config import MoeConfig
from r1jax.layers.expert_kernels import TRAVELLERS, experts_by_kernels
from r1jax.layers.expert_places import to_slots
from r1jax.layers.gradients import gated
from r1jax.layers.linear import Kernel, Turned, project, weight
from r1jax.layers.mlp import Mlp
from r1jax.layers.router import Router, Routes
from r1jax.quant import QArray
from r1jax.typing import Array, Float

Expert = Callable[[Array], Array]
TILE = 64  # rows of one expert that are multiplied at once
LEARNING_TILE = 256  # the same in training: the fewer, the fewer copies of experts
# From so many rows on XLA copies an expert that is picked as the left operand.
_MANY_ROWS = 32
_FEW_TOKENS = 8  # whose experts are computed one by one


def experts_all(x: Array, gate_up: Kernel, down: Kernel, routes: Routes) -> Array:
    """Every expert on every token, weighed by the routes (0 where not chosen).

    The plain form that the others must equal.
    """
    shares = _shares(routes, len(x), _count(down))

    def add(i: Array, total: Array) -> Array:
        y = _expert(gate_up, down, i)(x).astype(jnp.float32)
        return total + y * shares[i][:, None]

    zeros = jnp.zeros(x.shape, jnp.float32)
    return jax.lax.fori_loop(0, _count(down), add, zeros).astype(x.dtype)


def experts_used(x: Array, gate_up: Kernel, down: Kernel, routes: Routes) -> Array:
    """For a few tokens: reads each expert that any of them chose once, and no other."""
    shares = _shares(routes, len(x), _count(down))
    chosen = jnp.zeros(_count(down), bool).at[routes[0].reshape(-1)].set(True)
    order = jnp.argsort(~chosen, stable=True)

    def add(i: Array, total: Array) -> Array:
        expert = order[i]
        y = _expert(gate_up, down, expert)(x).astype(jnp.float32)
        return total + y * shares[expert][:, None]

    zeros = jnp.zeros(x.shape, jnp.float32)
    return jax.lax.fori_loop(0, chosen.sum(), add, zeros).astype(x.dtype)


def experts_sorted(x: Array, gate_up: Kernel, down: Kernel, routes: Routes) -> Array:
    """For many tokens: rows sorted by expert, each expert's multiplied tile by tile.

    An expert's last tile runs into the next expert's rows; those are written again by
    the expert they belong to, which comes later.
    """
    chosen, weights = routes
    tokens, per_token = chosen.shape
    order = jnp.argsort(chosen.reshape(-1), stable=True)
    ends = jnp.cumsum(jnp.bincount(chosen.reshape(-1), length=_count(down)))
    starts = jnp.concatenate([jnp.zeros(1, ends.dtype), ends[:-1]])
    pad = jnp.zeros((TILE, x.shape[1]), x.dtype)
    rows = jnp.concatenate([x[order // per_token], pad])

    def one(i: Array, out: Array) -> Array:
        apply = _expert(gate_up, down, i)

        def tile(j: Array, out: Array) -> Array:
            start = starts[i] + j * TILE
            y = apply(jax.lax.dynamic_slice_in_dim(rows, start, TILE))
            return jax.lax.dynamic_update_slice_in_dim(out, y, start, axis=0)

        tiles = (ends[i] - starts[i] + TILE - 1) // TILE
        return jax.lax.fori_loop(0, tiles, tile, out)

    out = jax.lax.fori_loop(0, _count(down), one, jnp.zeros_like(rows))
    back = jnp.zeros_like(order).at[order].set(jnp.arange(len(order)))
    by_token = out[back].reshape(tokens, per_token, -1)
    total = jnp.einsum("TXD,TX->TD", by_token.astype(jnp.float32), weights)
    return total.astype(x.dtype)


def experts_learning(x: Array, gate_up: Array, down: Array, routes: Routes) -> Array:
    """For training: differentiable, and the tokens of each expert are multiplied once.

    The expert of each row is told to the product on a TPU (`ragged`), elsewhere rows
    are laid in blocks of one expert each.
    """
    return jax.lax.platform_dependent(
        x, gate_up, down, *routes, tpu=experts_ragged, default=experts_blocks
    )


def experts_ragged(
    x: Array, gate_up: Array, down: Array, chosen: Array, weights: Array
) -> Array:
    """Equals `experts_all`; rows sorted by expert go into `jax.lax.ragged_dot`."""
    tokens, per_token = chosen.shape
    order = jnp.argsort(chosen.reshape(-1), stable=True)
    sizes = jnp.bincount(chosen.reshape(-1), length=len(down)).astype(jnp.int32)
    rows = x[order // per_token]
    w_in = gate_up.reshape(*gate_up.shape[:2], -1)
    gate, up = jnp.split(jax.lax.ragged_dot(rows, w_in, sizes), 2, axis=-1)
    y = jax.lax.ragged_dot(jax.nn.silu(gate) * up, down, sizes)
    shares = weights.reshape(-1)[order][:, None]
    total = jnp.zeros((tokens, x.shape[1]), jnp.float32)
    return total.at[order // per_token].add(y * shares).astype(x.dtype)


def experts_blocks(
    x: Array, gate_up: Array, down: Array, chosen: Array, weights: Array
) -> Array:
    """Equals `experts_all`; each block of LEARNING_TILE rows is of one expert.

    Every expert's rows are filled up to whole blocks, so the number of blocks is known
    before the routes are. A block reads a copy of its expert's matrices: for experts
    that are small beside their tokens.
    """
    tokens, per_token = chosen.shape
    experts, assigned = len(down), tokens * per_token
    flat = chosen.reshape(-1)
    order = jnp.argsort(flat, stable=True)
    sizes = jnp.bincount(flat, length=experts)
    blocks = -(-sizes // LEARNING_TILE)
    ends = jnp.cumsum(blocks)
    count = min(experts, assigned) + assigned // LEARNING_TILE
    expert = jnp.searchsorted(ends, jnp.arange(count), side="right")
    expert = jnp.minimum(expert, experts - 1)
    # The place of each sorted row: its expert's first block, and its rank there.
    rank = jnp.arange(assigned) - (jnp.cumsum(sizes) - sizes)[flat[order]]
    place = (ends - blocks)[flat[order]] * LEARNING_TILE + rank
    token = jnp.full(count * LEARNING_TILE, tokens).at[place].set(order // per_token)
    share = (
        jnp.zeros(count * LEARNING_TILE, jnp.float32)
        .at[place]
        .set(weights.reshape(-1)[order])
    )
    padded = jnp.concatenate([x, jnp.zeros((1, x.shape[1]), x.dtype)])
    rows = padded[token].reshape(count, LEARNING_TILE, -1)
    w_in = gate_up.reshape(*gate_up.shape[:2], -1)[expert]
    hidden = jnp.einsum("CMD,CDF->CMF", rows, w_in)
    hidden = hidden.reshape(*hidden.shape[:2], 2, -1)
    y = jnp.einsum("CMF,CFD->CMD", gated(hidden), down[expert])
    y = y.reshape(-1, x.shape[1]).astype(jnp.float32) * share[:, None]
    total = jnp.zeros((tokens + 1, x.shape[1]), jnp.float32).at[token].add(y)
    return total[:-1].astype(x.dtype)


def _count(kernel: Kernel) -> int:
    return len(jax.tree.leaves(kernel)[0])


def _shares(routes: Routes, tokens: int, experts: int) -> Float[Array, "E T"]:
    """Each expert's weight for each token."""
    chosen, weights = routes
    row = jnp.arange(tokens)[:, None]
    return jnp.zeros((experts, tokens), jnp.float32).at[chosen, row].add(weights)


def _expert(gate_up: Kernel, down: Kernel, index: Array) -> Expert:
    """Returns the function of one expert, its matrices picked by number."""

    def pick(array: Array) -> Array:
        return jax.lax.dynamic_index_in_dim(array, index, 0, keepdims=False)

    w_in, w_out = jax.tree.map(pick, (gate_up, down))

    def apply(x: Array) -> Array:
        gate, up = _gate_and_up(x, w_in)
        return project(jax.nn.silu(gate) * up, w_out, many=_MANY_ROWS)

    return apply


def _gate_and_up(x: Array, kernel: Kernel) -> list[Array]:
    """Multiplies by one expert's first matrices, [D, 2, F] or `Turned`."""
    if isinstance(kernel, QArray):
        parts = [jax.tree.map(lambda a, i=i: a[..., i, :], kernel) for i in range(2)]
        return [project(x, part, many=_MANY_ROWS) for part in parts]
    if not isinstance(kernel, Turned):
        kernel = kernel.reshape(len(kernel), -1)
    return jnp.split(project(x, kernel, many=_MANY_ROWS), 2, axis=-1)


class Experts(nn.Module):
    """Holds the routed experts' matrices."""

    config: MoeConfig
    width: int

    @nn.compact
    def __call__(
        self, x: Array, routes: Routes, batch: Batch | None, learns: bool
    ) -> Array:
        """Sums each token's chosen experts, weighed, [T, D] to [T, D]."""
        e, d, f = self.config.experts, self.width, self.config.expert_width
        scaled = nn.initializers.variance_scaling
        init_in = scaled(1.0, "fan_in", "normal", 1, 3, (0, 2))
        init_out = scaled(1.0, "fan_in", "normal", 1, 2, 0)
        in_axes = ("experts", "embed", "gate_up", "expert_mlp")
        out_axes = ("experts", "expert_mlp", "embed")
        gate_up = weight(self, "gate_up", init_in, in_axes, (e, d, 2, f))
        down = weight(self, "down", init_out, out_axes, (e, f, d))
        if batch is not None and batch.target.kernels:
            chosen, weights = routes
            # Padding chooses none: its experts would be read for nothing.
            chosen = jnp.where(batch.positions[:, None] >= 0, chosen, -1)
            return experts_by_kernels(x, gate_up, down, (chosen, weights))
        if learns:
            return experts_learning(x, gate_up, down, routes)
        form = experts_used if len(x) <= _FEW_TOKENS else experts_sorted
        return form(x, gate_up, down, routes)


class Moe(nn.Module):
    """Routed experts plus the shared ones, which every token uses unweighted."""

    config: MoeConfig
    width: int

    def setup(self) -> None:
        self.router = Router(self.config, self.width)
        self.experts = Experts(self.config, self.width)
        if self.config.shared_experts:
            hidden = self.config.shared_experts * self.config.expert_width
            self.shared = Mlp(self.width, hidden)

    def __call__(
        self, x: Array, batch: Batch | None = None, learns: bool = False
    ) -> Array:
        """Maps [T, D] to [T, D]; without a batch the tokens are a whole sequence.

        With `learns` the experts' form has gradients.
        """
        routes = self.router(x)
        if self.has_variable("params", "slots"):  # see layers/expert_places.py
            table: Array = self.get_variable("params", "slots")
            routes = to_slots(routes, table, share=len(x) >= TRAVELLERS)
        y = self.experts(x, routes, batch, learns)
        return y + self.shared(x) if self.config.shared_experts else y
