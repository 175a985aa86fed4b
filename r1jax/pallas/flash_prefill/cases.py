"""Shapes of the real models on a chip, each with a small twin for the interpreter."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Case:
    """A chunk of a model's attention on one chip.

    Attributes:
      name: Model, heads and chunk.
      heads: Query heads on the chip (N).
      kv_heads: Key heads on the chip (K).
      queries: Tokens of the chunk (T).
      prefix: Tokens before it.
      width: Of queries and keys (H).
      values: Width of values (W).
      shared: Last columns of the keys, the same for every head (R).
    """

    name: str
    heads: int
    kv_heads: int
    queries: int
    prefix: int
    width: int = 128
    values: int = 128
    shared: int = 0

    @property
    def keys(self) -> int:
        """Keys that the chunk may see (S)."""
        return self.prefix + self.queries

    @property
    def scale(self) -> float:
        """What the model multiplies scores with."""
        return 1 / math.sqrt(self.width)

    @property
    def flops(self) -> int:
        """Of the visible pairs."""
        pairs = self.queries * self.prefix + self.queries * (self.queries + 1) // 2
        return 2 * self.heads * (self.width + self.values) * pairs

    @property
    def bytes(self) -> int:
        """Of bfloat16 queries, keys, values and outputs, each once."""
        rows = self.heads * self.queries + self.kv_heads * self.keys
        repeated = (self.kv_heads - 1) * self.keys * self.shared
        return 2 * (rows * (self.width + self.values) - repeated)

    def arguments(self, dtype: str = "bfloat16") -> tuple[jax.ShapeDtypeStruct, ...]:
        """Returns q, k and v, and k_rope where the heads share columns."""
        own = self.width - self.shared
        shapes = [
            (self.heads, self.queries, self.width),
            (self.kv_heads, self.keys, own),
            (self.kv_heads, self.values, self.keys),
            (self.keys, self.shared),
        ]
        return tuple(
            jax.ShapeDtypeStruct(s, jnp.dtype(dtype)) for s in shapes if all(s)
        )

    def small(self) -> "Case":
        """Returns a twin with the same proportions and few tokens and heads."""
        kv_heads = min(self.kv_heads, 2)
        group = min(self.heads // self.kv_heads, 2)
        prefix = 256 if self.prefix else 0
        queries = 128 if self.queries == 512 else 256
        return Case(
            f"{self.name}-small",
            kv_heads * group,
            kv_heads,
            queries,
            prefix,
            self.width,
            self.values,
            self.shared,
        )


CASES = (
    # The goal's case: that at which JAX's own kernels are measured.
    Case("goal-4096", 16, 16, 4096, 0),
    # R1 expanded, heads cut 8 ways and not at all.
    Case("r1-tensor8-512", 16, 16, 512, 0, 192, 128, 64),
    Case("r1-tensor8-2048", 16, 16, 2048, 0, 192, 128, 64),
    Case("r1-tensor8-4096", 16, 16, 4096, 0, 192, 128, 64),
    Case("r1-tensor8-512-behind-4096", 16, 16, 512, 4096, 192, 128, 64),
    Case("r1-tensor8-2048-behind-4096", 16, 16, 2048, 4096, 192, 128, 64),
    Case("r1-tensor8-4096-behind-4096", 16, 16, 4096, 4096, 192, 128, 64),
    Case("r1-2048-behind-4096", 128, 128, 2048, 4096, 192, 128, 64),
    Case("r1-tensor8-2048-behind-30720", 16, 16, 2048, 30720, 192, 128, 64),
    # Distills: Llama 8B cut 4 ways, 70B cut 8 ways, Qwen 1.5B, 7B cut 4 ways, 14B and
    # 32B cut 8 ways.
    Case("llama8b-tensor4-2048", 8, 2, 2048, 0),
    Case("llama70b-tensor8-2048-behind-4096", 8, 1, 2048, 4096),
    Case("qwen1.5b-2048", 12, 2, 2048, 0),
    Case("qwen7b-tensor4-4096", 7, 1, 4096, 0),
    Case("qwen14b-tensor8-2048-behind-4096", 5, 1, 2048, 4096),
    Case("smollm2-2048", 9, 3, 2048, 0, 64, 64),
)


def case(name: str) -> Case:
    """Returns the case of that name."""
    return next(c for c in CASES if c.name == name)
