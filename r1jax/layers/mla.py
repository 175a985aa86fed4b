"""Multi-head latent attention (arXiv 2405.04434, section 2.1)."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from r1jax.cache import Context, Part, flat
from r1jax.config import MlaConfig
from r1jax.layers import attention
from r1jax.layers.fused import (
    LANES,
    Whole,
    attend,
    attend_chunk,
    is_long,
    on_each_device,
    split,
)
from r1jax.layers.linear import Projection, Turned, weight
from r1jax.layers.norm import RmsNorm
from r1jax.layers.notes import asked, note
from r1jax.layers.packed import Rows, attend_packed
from r1jax.layers.paged import attend_part
from r1jax.layers.rope import Rotation, at, rotate, softmax_scale
from r1jax.quant import QArray
from r1jax.typing import Array, Float


def absorbed_is_cheaper(config: MlaConfig, tokens: int) -> bool:
    """Tells whether attending over the latent costs less than rebuilding keys.

    Absorbed, each pair of a query and a context token costs `2 C + R` products a head
    instead of `H + R + W`; expanded, each context token costs `C (H + W)` more, once.
    At R1's sizes the two meet at 171 query tokens.
    """
    c = config
    absorbed = 2 * c.kv_rank + c.rope_dim
    expanded = c.nope_dim + c.rope_dim + c.value_dim
    rebuilding = c.kv_rank * (c.nope_dim + c.value_dim)
    return tokens * (absorbed - expanded) <= rebuilding


class LatentWeights(NamedTuple):
    """What rebuilds keys [N, H, C] and values [N, W, C] from a latent."""

    k_up: Array
    v_up: Array


def expand(
    entry: Float[Array, "*B S CR"], weights: LatentWeights
) -> tuple[Float[Array, "*B N S HR"], Float[Array, "*B N W S"]]:
    """Rebuilds every head's keys and values from cached entries (eq. 9 to 19)."""
    latent, k_rope = jnp.split(entry, [weights.k_up.shape[-1]], axis=-1)
    k_nope = jnp.einsum("...SC,NHC->...NSH", latent, weights.k_up)
    shared = jnp.broadcast_to(
        jnp.expand_dims(k_rope, -3), (*k_nope.shape[:-1], k_rope.shape[-1])
    )
    v = jnp.einsum("...SC,NWC->...NWS", latent, weights.v_up)
    return jnp.concatenate([k_nope, shared], axis=-1), v


def attend_expanded(
    part: Part, q: Float[Array, "B T N HR"], weights: LatentWeights, scale: float
) -> Float[Array, "B T N W"]:
    """Attends with keys and values rebuilt, a piece of context at a time."""
    return attend_part(
        part,
        q,
        lambda get: expand(jnp.squeeze(get("latent"), -3), weights),
        kv_heads=q.shape[2],
        scale=scale,
    )


def attend_absorbed(
    part: Part, q: Float[Array, "B T N HR"], weights: LatentWeights, scale: float
) -> Float[Array, "B T N W"]:
    """Attends over the latent itself; equal to `attend_expanded` up to rounding.

    The rebuilding moves to the query and to the output, and all heads share one key:
    the cached entry, whose first C values are also the value.
    """
    _, nope_dim, kv_rank = weights.k_up.shape
    q_nope, q_rope = jnp.split(q, [nope_dim], axis=-1)
    q_latent = jnp.einsum("BTNH,NHC->BTNC", q_nope, weights.k_up)

    def read(get: Callable[[str], Array]) -> tuple[Array, Array]:
        entry = get("latent")
        return entry, jnp.swapaxes(entry[..., :kv_rank], -1, -2)

    absorbed = jnp.concatenate([q_latent, q_rope], axis=-1)
    mixed = attend_part(part, absorbed, read, kv_heads=1, scale=scale)
    return jnp.einsum("BTNC,NWC->BTNW", mixed, weights.v_up)


def attend_kernels(
    context: Context,
    q: Float[Array, "T N HR"],
    entry: Float[Array, "T CR"],
    k_up: Float[Array, "N H C"],
    v_up: Float[Array, "N W C"],
    *,
    config: MlaConfig,
    scale: float,
) -> tuple[Array, Context]:
    """Writes and attends by kernels, on one device; expanded for long chunks."""
    nope, rank = config.nope_dim, config.kv_rank
    (pool,) = context.pools.values()
    new = jnp.pad(entry, ((0, 0), (0, pool.shape[-1] - entry.shape[-1])))

    def absorbed(some: Context, tokens: slice) -> tuple[Array, Context]:
        q_nope, q_rope = jnp.split(q[tokens], [nope], axis=-1)
        q_latent = jnp.einsum("TNH,NHC->TNC", q_nope, k_up)
        joined = jnp.concatenate([q_latent, q_rope], axis=-1)
        found, after = attend(some, joined, new[tokens], scale=scale, value_width=rank)
        return jnp.einsum("TNC,NWC->TNW", found, v_up), after

    def whole(entries: Array) -> Whole:
        entries = entries[:, : config.latent_dim]
        if nope % LANES:  # the kernel joins keys to the shared part at a register
            return Whole(*expand(entries, LatentWeights(k_up, v_up)))
        latent = entries[:, :rank]
        k = jnp.einsum("SC,NHC->NSH", latent, k_up)
        v = jnp.einsum("SC,NWC->NWS", latent, v_up)
        return Whole(k, v, entries[:, rank:])

    def chunk(some: Context, tokens: slice, row: int) -> tuple[Array, Context]:
        mine = q[tokens], new[tokens]
        return attend_chunk(some, row, tokens, *mine, read=whole, scale=scale)

    g = context.batch.geometry
    if not is_long(g) or absorbed_is_cheaper(config, g.chunk_tokens):
        return absorbed(context, slice(None))
    return split(context, absorbed, chunk)


class Mla(nn.Module):
    """Latents down and up, the shared rotating key, attention, output.

    Attributes:
      config: The sizes.
      width: Model width D.
      eps: Of the two latent norms.
    """

    config: MlaConfig
    width: int
    eps: float

    def setup(self) -> None:
        c, d = self.config, self.width
        head = c.nope_dim + c.rope_dim
        up = ("heads", "head_dim")
        if c.q_rank is None:
            self.q = Projection((d, c.heads, head), ("embed", *up))
        else:
            self.q_down = Projection((d, c.q_rank), ("embed", "q_latent"))
            self.q_down_norm = RmsNorm(c.q_rank, self.eps, "q_latent")
            self.q_up = Projection((c.q_rank, c.heads, head), ("q_latent", *up))
        self.kv_down = Projection((d, c.latent_dim), ("embed", "latent"))
        self.kv_norm = RmsNorm(c.kv_rank, self.eps, "latent")
        self.k_up = Rebuild((c.kv_rank, c.heads, c.nope_dim))
        self.v_up = Rebuild((c.kv_rank, c.heads, c.value_dim))
        self.o = Projection((c.heads, c.value_dim, d), (*up, "embed"), inputs=2)

    def __call__(
        self,
        x: Array,
        turn: Rotation,
        context: Context | Rows | None,
        last: Array | None = None,
    ) -> tuple[Array, Context | None]:
        """Attends from [T, D] tokens; returns [T, D] and the context with them.

        Without a context the tokens are one whole sequence; `Rows` are packed ones.
        With `last` (not with kernels) only that token of each row attends, and [B, D]
        is returned.
        """
        c = self.config
        q_nope, q_rope = self._queries(x if last is None else x[last], at(turn, last))
        latent, k_rope = jnp.split(self.kv_down(x), [c.kv_rank], axis=-1)
        k_rope = rotate(k_rope[:, None], turn, interleaved=c.rope.interleaved)[:, 0]
        entry = jnp.concatenate([self.kv_norm(latent), k_rope], axis=-1)
        weights = LatentWeights(self.k_up(), self.v_up())
        scale = softmax_scale(c.rope, c.nope_dim + c.rope_dim)
        q = jnp.concatenate([q_nope, q_rope], axis=-1)
        if context is None or isinstance(context, Rows):
            k, v = expand(entry, weights)
            k, v = jnp.swapaxes(k, 0, 1), jnp.moveaxis(v, -1, 0)
            if context is not None:
                return self.o(attend_packed(q, k, v, context, scale=scale)), None
            mask = attention.visible(jnp.arange(len(x)), len(x))
            if asked(self):
                found = attention.shares(q, k, mask, scale=scale)
                note(self, shares=found, cached=entry)
            return self.o(attention.attend(q, k, v, mask, scale=scale)), None
        if context.batch.target.kernels:
            heads = ("heads", None, None)
            mixed, context = on_each_device(
                functools.partial(attend_kernels, config=c, scale=scale),
                context,
                (q, entry, *weights),
                (("tokens", "heads", None), ("tokens", None), heads, heads),
            )
            return self.o(mixed), context
        context = context.write(latent=entry[:, None])
        asking = context if last is None else context.ending(last)
        parts = [
            (attend_absorbed if absorbed_is_cheaper(c, tokens) else attend_expanded)(
                part, part.rows(q), weights, scale
            )
            for part in asking.parts()
            for tokens in part.positions.shape[1:]
        ]
        return self.o(flat(parts)), context

    def _queries(self, x: Array, turn: Rotation) -> tuple[Array, Array]:
        c = self.config
        if c.q_rank is None:
            q = self.q(x)
        else:
            q = self.q_up(self.q_down_norm(self.q_down(x)))
        q_nope, q_rope = jnp.split(q, [c.nope_dim], axis=-1)
        return q_nope, rotate(q_rope, turn, interleaved=c.rope.interleaved)


class Rebuild(nn.Module):
    """The matrix that rebuilds keys or values of all heads from a latent."""

    shape: tuple[int, int, int]

    @nn.compact
    def __call__(self) -> Array:
        """Returns the kernel as [N, H, C]; the caller decides where it multiplies."""
        init = nn.initializers.variance_scaling(
            1.0, "fan_in", "normal", in_axis=0, out_axis=(1, 2)
        )
        axes = ("latent", "heads", "head_dim")
        kernel: Array | Turned = weight(self, "kernel", init, axes, self.shape)
        if not isinstance(kernel, Turned):
            return jnp.moveaxis(kernel, 0, -1)  # XLA folds this into the products
        assert not isinstance(kernel.array, QArray)  # `quant.part_of` leaves it plain
        return kernel.array.reshape(*self.shape[1:], self.shape[0])
