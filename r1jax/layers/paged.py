"""Attention of one step's rows over the paged cache."""

from collections.abc import Callable

import jax.numpy as jnp

from r1jax.cache import Part
from r1jax.layers.attention import (
    FEW_QUERIES,
    attend_blocks,
    attend_pages,
    attend_rows,
)
from r1jax.typing import Array, Float

# Context tokens that rows read together; more costs memory, less costs loop turns.
BLOCK_TOKENS = 256

# From a getter of what pools hold to keys [..., K, S, H] and values [..., K, W, S].
Read = Callable[[Callable[[str], Array]], tuple[Array, Array]]


def attend_part(
    part: Part,
    q: Float[Array, "B T N H"],
    read: Read,
    *,
    kv_heads: int,
    scale: float,
) -> Float[Array, "B T N W"]:
    """Attends from a part's queries to their sequences' pages.

    Args:
      part: The rows, their pages and the pools.
      q: The part's queries.
      read: Makes keys and values of what the pools hold.
      kv_heads: Key heads that `read` gives.
      scale: Multiplies the scores.
    """
    if part.by_rows:
        few = q.shape[1] * q.shape[2] // kv_heads <= FEW_QUERIES
        form, get = (attend_pages, part.some) if few else (attend_rows, part.page)
        return form(
            q,
            lambda number: read(lambda name: get(name, number)),
            part.positions,
            part.page_table,
            tokens=part.page_size,
            kv_heads=kv_heads,
            scale=scale,
        )
    pages = min(max(BLOCK_TOKENS // part.page_size, 1), part.page_table.shape[1])
    return attend_blocks(
        q,
        lambda i: read(lambda name: _side_by_side(part.block(name, i, pages), name)),
        part.positions,
        tokens=pages * part.page_size,
        kv_heads=kv_heads,
        scale=scale,
    )


def _side_by_side(pages: Array, name: str) -> Array:
    """Joins pages [B, J, K, ...] along their tokens: the last axis of values."""
    token_axis = 4 if name == "value" else 3
    moved = jnp.moveaxis(pages, 1, token_axis - 1)
    shape = list(moved.shape)
    shape[token_axis - 1 : token_axis + 1] = [-1]
    return moved.reshape(shape)
