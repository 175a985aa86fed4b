"""The rule for block sizes, where a kernel's table says nothing else."""

import math

from r1jax.pallas.paged.pool import LANES
from r1jax.pallas.paged.shape import Blocks

# Sequences that bring more tokens than this on average bring prompts, not guesses.
_GUESSES = 4


def fitted(blocks: Blocks, page: int, pages: int) -> Blocks:
    """Rounds the keys of a block to whole pages, no more than a sequence can have."""
    unit = math.lcm(page, LANES)
    most = -(-page * pages // unit) * unit
    keys = min(max(blocks.keys // unit, 1) * unit, most)
    sizes = range(LANES, min(blocks.piece, keys) + 1, LANES)
    fitting = (n for n in sizes if keys % n == 0 and (n % page == 0 or page % n == 0))
    piece = max(fitting, default=keys)
    group, queries = max(blocks.group, 1), max(blocks.queries, 1)
    return Blocks(keys, piece, blocks.depth, group, queries, blocks.stripe)


def decode(entry_bytes: int, rows: int, page: int, pages: int) -> Blocks:
    """Returns the sizes for one new token a sequence.

    A block is about a megabyte, so that the copy of the next ones takes longer than it
    takes to begin; what is left of a sequence goes in pieces of 512.

    Args:
      entry_bytes: Of a token, all key heads.
      rows: Query heads (N), which decide what a grid step's queries take of VMEM.
      page: Tokens in a page.
      pages: Pages of a sequence.
    """
    keys = 512 * max(1, min(4, 2**21 // entry_bytes // 512))
    group = max(1, min(8, 256 // rows))
    return fitted(Blocks(keys, 512, 3, group, 1, 512), page, pages)


def mixed(
    rows: int,
    tile_rows: int,
    stripe: int,
    tokens: int,
    sequences: int,
    page: int,
    pages: int,
) -> Blocks:
    """Returns the sizes for any number of new tokens.

    Args:
      rows: Query heads of a key head (G).
      tile_rows: Rows of a tile of a prompt's queries, about.
      stripe: Rows that are computed together; a tile with one token computes no more.
      tokens: Flat tokens (T).
      sequences: Rows of the page table (B).
      page: Tokens in a page.
      pages: Pages of a sequence.
    """
    queries = max(1, tile_rows // rows)
    if tokens <= _GUESSES * sequences:
        queries = min(queries, -(-tokens // sequences))
    return fitted(Blocks(2048, 1024, 3, 1, queries, stripe), page, pages)
