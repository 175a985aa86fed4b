"""The static side of one call: sizes, blocks, and what they cost in VMEM."""

from dataclasses import dataclass

import jax.numpy as jnp

from r1jax.pallas.paged.pool import LANES


@dataclass(frozen=True)
class Blocks:
    """What a caller may tune.

    Attributes:
      keys: Context tokens that are attended to at once; a multiple of 128 and of the
        page.
      piece: What is attended to at once of a block that is not full; divides `keys`,
        and is whole pages or divides a page.
      depth: Blocks of keys in VMEM: one in use, the others on their way.
      group: Tiles of queries (in decode, sequences) in a grid step.
      queries: Tokens in a tile of queries, for mixed steps.
      stripe: Rows (token and head pairs) of a tile that are computed together; a
        tile with few tokens computes only the stripes that it fills.
    """

    keys: int = 512
    piece: int = 512
    depth: int = 3
    group: int = 4
    queries: int = 8
    stripe: int = 512


@dataclass(frozen=True)
class Shape:
    """Sizes of one call, after padding.

    Attributes:
      tiles: Tiles of queries.
      heads: Key heads (K).
      rows: Rows of a tile and key head: tokens times `per_token`, padded.
      per_token: Query heads of a key head (G).
      query_width: Lanes of a query, and of the key, from the entry's first on.
      value_start: First lane of the value within the entry.
      value_width: Lanes of the value.
      width: Lanes of an entry (E).
      scales: Rows of scales a token (A); 0 without.
      page: Tokens in a page (Z).
      pages: Pages of a sequence (J).
      chunk: Rows of an aligned write.
      chunks: Writes before attention starts (mixed); 0: decode's own writes.
      flat: Whether queries and results are flat [T, N, ...], not laid out in tiles.
      blocks: The tunable sizes.
      stripe: Rows computed together.
      softmax_scale: Multiplies the scores.
      partial: Whether peak and total come out too.
      values: Dtype of the cache.
      compute: Dtype of the products' operands.
      out: Dtype of the mixed values.
    """

    tiles: int
    heads: int
    rows: int
    per_token: int
    query_width: int
    value_start: int
    value_width: int
    width: int
    scales: int
    page: int
    pages: int
    chunk: int
    chunks: int
    flat: bool
    blocks: Blocks
    stripe: int
    softmax_scale: float
    partial: bool
    values: jnp.dtype
    compute: jnp.dtype
    out: jnp.dtype

    @property
    def keys(self) -> int:
        """Context tokens in a block."""
        return self.blocks.keys

    @property
    def block_pages(self) -> int:
        """Pages in a block."""
        return self.blocks.keys // self.page

    @property
    def at_once(self) -> int:
        """Keys of a full block that are attended to at once: few rows take all."""
        return self.keys if self.stripe <= LANES else self.blocks.piece

    @property
    def stages(self) -> int:
        """Writes that may be on their way at once."""
        return min(self.chunks, 16) or min(self.tiles, 8)

    def buffers(self) -> dict[str, int]:
        """Returns the bytes in VMEM of everything that the kernel keeps."""
        item, out = self.compute.itemsize, self.out.itemsize
        group, queries = self.blocks.group, self.heads * self.rows
        entry = self.heads * self.width * self.values.itemsize
        scores = self.stripe * self.keys
        return {
            "keys": self.blocks.depth * self.keys * entry,
            "scales": 4 * self.blocks.depth * self.keys * max(self.scales, 8)
            if self.scales
            else 0,
            "queries": 2 * group * queries * self.query_width * item,
            "output": 2 * group * queries * self.value_width * out,
            "statistics": (2 + 2 * group * self.partial) * queries * LANES * 4,
            "accumulator": queries * self.value_width * 4,
            "scores": scores * (4 + item),
            "writes": 2 * self.stages * self.chunk * entry,
        }
