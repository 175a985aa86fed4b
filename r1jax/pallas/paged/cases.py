"""What a case of paged attention is; the cases themselves are with each kernel."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp

from r1jax.pallas.paged.pool import LANES, Pool


@dataclass(frozen=True)
class Case:
    """The shapes of one call on one chip.

    Attributes:
      name: Model, place and load.
      kind: One token a sequence, or any number.
      heads: Query heads on a chip (N).
      kv_heads: Key heads on a chip (K); 0 for a latent.
      width: Lanes of a query: of an entry (latent), or of a head.
      value_width: Lanes of a value.
      rows: Sequences (B).
      context: Cached tokens of each, the new ones counted.
      tokens: Flat tokens (T) of a mixed step: one row brings what the others, with one
        token each, leave over.
      page: Tokens in a page.
      dtype: Of the cache.
      layers: Layers in the pool.
    """

    name: str
    kind: Literal["decode", "mixed"]
    heads: int
    kv_heads: int
    width: int
    value_width: int
    rows: int
    context: int
    tokens: int = 0
    page: int = 128
    dtype: str = "bfloat16"
    layers: int = 2

    def small(self) -> "Case":
        """Returns a twin for the interpreter: the same layout, little context."""
        groups = self.heads // max(self.kv_heads, 1)
        kv_heads = min(self.kv_heads, 2)
        return replace(
            self,
            heads=min(groups, 16) * max(kv_heads, 1),
            kv_heads=kv_heads,
            width=self.width if self.kv_heads else 256,
            value_width=min(self.value_width, LANES),
            rows=min(self.rows, 4),
            context=min(self.context, 160),
            tokens=min(self.tokens, 24),
            page=LANES if self.dtype == "int8" else 32,
        )

    @property
    def pages(self) -> int:
        """Pages of a sequence (J)."""
        return -(-self.context // self.page)

    @property
    def entry_bytes(self) -> int:
        """Bytes that the cache holds for a token and layer."""
        values = max(self.kv_heads, 1) * self.entry_width
        scales = 2 * self.kv_heads or 1
        quantised = 4 * scales if self.dtype == "int8" else 0
        return values * jnp.dtype(self.dtype).itemsize + quantised

    @property
    def entry_width(self) -> int:
        """Lanes of an entry of one key head (E)."""
        return 2 * self.width if self.kv_heads else self.width

    @property
    def flops(self) -> int:
        """Operations of the two products; a latent's padding is not counted."""
        lanes = (self.width if self.kv_heads else self.value_width + 64) + (
            self.value_width
        )
        chunk = max(self.tokens - self.rows, 0)
        before_chunk = self.context - chunk
        pairs = self.rows * self.context + chunk * before_chunk + chunk**2 // 2
        return 2 * pairs * self.heads * lanes

    @property
    def bytes(self) -> int:
        """Bytes read of the cache, each token of it once."""
        return self.rows * self.context * self.entry_bytes

    def arguments(self) -> list[Any]:
        """Returns the positional arguments' shapes and dtypes."""
        q = (self.tokens or self.rows, self.heads, self.width)
        heads = (self.kv_heads,) if self.kv_heads else ()
        where = (self.layers, 1 + self.rows * self.pages)
        values = (*where, *heads, self.page, self.entry_width)
        scales = (*where, 2 * self.kv_heads or 1, self.page)
        a: Any = jax.ShapeDtypeStruct
        pool = Pool(
            a(values, jnp.dtype(self.dtype)),
            a(scales, jnp.float32) if self.dtype == "int8" else None,
        )
        ints = [a(s, jnp.int32) for s in ((), (self.rows, self.pages), (self.rows,))]
        more = [a((self.rows,), jnp.int32)] * 2 if self.kind == "mixed" else []
        new = a((q[0], *heads, self.entry_width), jnp.bfloat16)
        return [a(q, jnp.bfloat16), new, pool, *ints, *more]
