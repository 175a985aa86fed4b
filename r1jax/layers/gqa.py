"""Grouped-query attention of the dense family (Qwen2, Llama, Qwen3)."""

import functools

import flax.linen as nn
import jax.numpy as jnp

from r1jax.cache import Context, flat
from r1jax.config import GqaConfig
from r1jax.layers import attention
from r1jax.layers.fused import (
    Whole,
    attend,
    attend_chunk,
    is_long,
    on_each_device,
    split,
)
from r1jax.layers.linear import Projection
from r1jax.layers.norm import RmsNorm
from r1jax.layers.notes import asked, note
from r1jax.layers.packed import Rows, attend_packed
from r1jax.layers.paged import attend_part
from r1jax.layers.rope import Rotation, at, rotate, softmax_scale
from r1jax.typing import Array, Float


class Gqa(nn.Module):
    """Queries, keys and values; rotation; attention; output.

    Attributes:
      config: The sizes.
      width: Model width D.
      eps: Of the query and key norms, where the config has them.
    """

    config: GqaConfig
    width: int
    eps: float

    def setup(self) -> None:
        c, d = self.config, self.width
        q, kv = (d, c.heads, c.head_dim), (d, c.kv_heads, c.head_dim)
        q_axes, kv_axes = ("heads", "head_dim"), ("kv_heads", "head_dim")
        self.q = Projection(q, ("embed", *q_axes), bias=c.qkv_bias)
        self.k = Projection(kv, ("embed", *kv_axes), bias=c.qkv_bias)
        self.v = Projection(kv, ("embed", *kv_axes), bias=c.qkv_bias)
        out = (c.heads, c.head_dim, d)
        self.o = Projection(out, (*q_axes, "embed"), inputs=2)
        if c.qk_norm:
            self.q_norm = RmsNorm(c.head_dim, self.eps, "head_dim")
            self.k_norm = RmsNorm(c.head_dim, self.eps, "head_dim")

    def __call__(
        self,
        x: Array,
        turn: Rotation,
        context: Context | Rows | None,
        last: Array | None = None,
    ) -> tuple[Array, Context | None]:
        """Attends from [T, D] tokens; returns [T, D] and the context with their keys.

        Without a context the tokens are one whole sequence; `Rows` are packed ones.
        With `last` (not with kernels) only that token of each row attends, and [B, D]
        is returned.
        """
        q, k, v = self.q(x if last is None else x[last]), self.k(x), self.v(x)
        if self.config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q = rotate(q, at(turn, last), interleaved=self.config.rope.interleaved)
        k = rotate(k, turn, interleaved=self.config.rope.interleaved)
        scale = softmax_scale(self.config.rope, self.config.head_dim)
        if isinstance(context, Rows):
            return self.o(attend_packed(q, k, v, context, scale=scale)), None
        if context is None:
            mask = attention.visible(jnp.arange(len(x)), len(x))
            if asked(self):
                found = attention.shares(q, k, mask, scale=scale)
                flat_kv = jnp.concatenate([k, v], axis=-1).reshape(len(x), -1)
                note(self, shares=found, cached=flat_kv)
            return self.o(attention.attend(q, k, v, mask, scale=scale)), None
        if context.batch.target.kernels:
            mixed, context = on_each_device(
                functools.partial(attend_kernels, scale=scale),
                context,
                (q, jnp.concatenate([k, v], axis=-1)),
                (("tokens", "heads", None), ("tokens", "kv_heads", None)),
            )
            return self.o(mixed), context
        context = context.write(key=k, value=v)
        asking = context if last is None else context.ending(last)
        parts = [
            attend_part(
                part,
                part.rows(q),
                lambda get: (get("key"), get("value")),
                kv_heads=self.config.kv_heads,
                scale=scale,
            )
            for part in asking.parts()
        ]
        return self.o(flat(parts)), context


def attend_kernels(
    context: Context,
    q: Float[Array, "T N H"],
    new: Float[Array, "T K HH"],
    *,
    scale: float,
) -> tuple[Array, Context]:
    """Writes and attends by kernels, on one device: few tokens, or long chunks."""
    if not is_long(context.batch.geometry):
        return attend(context, q, new, scale=scale)

    def decode(some: Context, tokens: slice) -> tuple[Array, Context]:
        return attend(some, q[tokens], new[tokens], scale=scale)

    def chunk(some: Context, tokens: slice, row: int) -> tuple[Array, Context]:
        mine = q[tokens], new[tokens]
        return attend_chunk(some, row, tokens, *mine, read=whole, scale=scale)

    return split(context, decode, chunk)


def whole(entries: Float[Array, "S K HH"]) -> Whole:
    """Parts cached entries into keys and values, heads first."""
    k, v = jnp.split(entries, 2, axis=-1)
    return Whole(jnp.swapaxes(k, 0, 1), jnp.moveaxis(v, 0, -1))
