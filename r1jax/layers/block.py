"""One transformer layer: attention and feed-forward, each behind a norm."""

import flax.linen as nn

from r1jax.cache import Context
from r1jax.config import GqaConfig, ModelConfig
from r1jax.layers.gqa import Gqa
from r1jax.layers.mla import Mla
from r1jax.layers.mlp import Mlp
from r1jax.layers.moe import Moe
from r1jax.layers.norm import RmsNorm
from r1jax.layers.notes import note
from r1jax.layers.packed import Rows
from r1jax.layers.rope import Rotation
from r1jax.typing import Array


class Block(nn.Module):
    """A dense layer, or one with experts."""

    config: ModelConfig
    with_experts: bool

    def setup(self) -> None:
        c = self.config
        self.attention_norm = RmsNorm(c.width, c.norm_eps)
        if isinstance(c.attention, GqaConfig):
            self.attention: nn.Module = Gqa(c.attention, c.width, c.norm_eps)
        else:
            self.attention = Mla(c.attention, c.width, c.norm_eps)
        self.mlp_norm = RmsNorm(c.width, c.norm_eps)
        if self.with_experts:
            assert c.moe is not None
            self.moe = Moe(c.moe, c.width)
        else:
            self.mlp = Mlp(c.width, c.mlp_width)

    def __call__(
        self,
        x: Array,
        turn: Rotation,
        context: Context | Rows | None,
        last: Array | None = None,
    ) -> tuple[Array, Context | None]:
        """Maps [T, D] to [T, D] and returns the context with this layer's entries.

        With `last`, one flat token of each row, only those go on: the result is [B, D].
        `Rows` are for training: sequences apart, and no context returned.
        """
        learns = isinstance(context, Rows)
        y, after = self.attention(self.attention_norm(x), turn, context, last)
        x = (x if last is None else x[last]) + y
        normed = self.mlp_norm(x)
        if self.with_experts:
            batch = None if after is None else after.batch
            x = x + self.moe(normed, batch, learns)
        else:
            x = x + self.mlp(normed)
        note(self, residual=x)
        return x, after
