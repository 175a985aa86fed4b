"""Mixture of experts: routed experts by few or by many tokens, and shared ones."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from r1jax.config import MoeConfig
from r1jax.layers.mlp import Mlp
from r1jax.layers.router import Router, Routes
from r1jax.typing import Array, Float, typechecked


@typechecked
def experts_dense(
    x: Float[Array, "T D"],
    gate_up: Float[Array, "E D 2 F"],
    down: Float[Array, "E F D"],
    routes: Routes,
) -> Float[Array, "T D"]:
    """Every expert on every token, weighed by the routes (0 where not chosen).

    The plain form that every other one must equal.
    """
    chosen, weights = routes
    experts = len(gate_up)
    dense = jnp.zeros((len(x), experts), jnp.float32)
    dense = dense.at[jnp.arange(len(x))[:, None], chosen].add(weights)

    def add(total: Array, expert: tuple[Array, Array, Array]) -> tuple[Array, None]:
        w_in, w_out, weight = expert
        hidden = jnp.einsum("TD,DGF->TGF", x, w_in)
        y = (jax.nn.silu(hidden[:, 0]) * hidden[:, 1]) @ w_out
        return total + y.astype(jnp.float32) * weight[:, None], None

    zeros = jnp.zeros(x.shape, jnp.float32)
    total, _ = jax.lax.scan(add, zeros, (gate_up, down, dense.T))
    return total.astype(x.dtype)


class Experts(nn.Module):
    """Holds the routed experts' matrices."""

    config: MoeConfig
    width: int

    @nn.compact
    def __call__(self, x: Array, routes: Routes) -> Array:
        """Sums each token's chosen experts, [T, D] to [T, D]."""
        e, d, f = self.config.experts, self.width, self.config.expert_width
        scale = nn.initializers.variance_scaling
        init_in = scale(1.0, "fan_in", "normal", in_axis=1, out_axis=3, batch_axis=(0, 2))
        init_out = scale(1.0, "fan_in", "normal", in_axis=1, out_axis=2, batch_axis=0)
        in_axes = ("experts", "embed", "gate_up", "expert_mlp")
        out_axes = ("experts", "expert_mlp", "embed")
        partition = nn.with_logical_partitioning
        gate_up = self.param("gate_up", partition(init_in, in_axes), (e, d, 2, f))
        down = self.param("down", partition(init_out, out_axes), (e, f, d))
        return experts_dense(x, gate_up, down, routes)


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

    def __call__(self, x: Array) -> Array:
        """Maps [T, D] to [T, D]."""
        y = self.experts(x, self.router(x))
        return y + self.shared(x) if self.config.shared_experts else y
