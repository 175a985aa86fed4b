"""The SwiGLU feed-forward (arXiv 2002.05202)."""

import flax.linen as nn

from r1jax.layers.gradients import gated
from r1jax.layers.linear import Projection
from r1jax.typing import Array


class Mlp(nn.Module):
    """`down(silu(gate(x)) * up(x))`; gate and up share one kernel [D, 2, F]."""

    width: int
    hidden: int

    def setup(self) -> None:
        d, f = self.width, self.hidden
        self.gate_up = Projection((d, 2, f), ("embed", "gate_up", "mlp"))
        self.down = Projection((f, d), ("mlp", "embed"))

    def __call__(self, x: Array) -> Array:
        """Maps [T, D] to [T, D]."""
        hidden = self.gate_up(x)
        return self.down(gated(hidden))
