"""Work items: which rows meet which expert, one step of the kernel each."""

from typing import NamedTuple

import jax.numpy as jnp
from jax.experimental import pallas as pl

from r1jax.typing import Array


class Items(NamedTuple):
    """Work items in the rows' order, int32 arrays of one entry each.

    An item is what one expert owns of one block of rows:

        rows      0 1 2 3 | 4 5 6 7 | 8 9        blocks of 4
        expert    0 0 0 2   2 2 2 -   - -        sizes 3, 0, 4; the rest is nobody's
        items     a a a b   c c c d   e e        expert 1 has none: it is never read

    Attributes:
      expert: Whose matrix is there; for nobody's rows, the last one that was used.
      block: Which block of rows.
      low: The first row, counted from the block's.
      high: After the last row.
      owned: 1, or 0 for nobody's rows.
    """

    expert: Array
    block: Array
    low: Array
    high: Array
    owned: Array


def work_items(sizes: Array, rows: int, block: int) -> tuple[Items, Array]:
    """Returns the items, padded to the most there can be, and how many are real.

    Only comparisons and sums over tables of a few thousand numbers: XLA makes a few
    small fusions of them, shared by calls with the same sizes and block.

    Args:
      sizes: Rows of each expert, int32 [E].
      rows: M.
      block: Rows of a block.
    """
    experts = len(sizes)
    number = jnp.arange(experts + 1)
    sizes = jnp.concatenate([sizes, jnp.full((1,), rows, sizes.dtype)])
    ends = jnp.minimum(_running(sizes), rows)
    starts = jnp.concatenate([jnp.zeros((1,), ends.dtype), ends[:-1]])
    first = starts // block
    visits = jnp.where(ends > starts, (ends - 1) // block - first + 1, 0)
    after = _running(visits)
    item = jnp.arange(pl.cdiv(rows, block) + experts)
    group = jnp.minimum((after[None] <= item[:, None]).sum(1), experts)
    mine = group[:, None] == number[None]

    def of_group(values: Array) -> Array:
        return jnp.where(mine, values[None], 0).sum(1)

    which = of_group(first - after + visits) + item
    low = jnp.maximum(of_group(starts) - which * block, 0)
    high = jnp.minimum(of_group(ends) - which * block, block)
    used = jnp.where((ends > starts)[:-1], number[:-1], 0).max()
    owned = group < experts
    columns = (jnp.where(owned, group, used), which, low, high, owned)
    return Items(*(c.astype(jnp.int32) for c in columns)), after[-1].astype(jnp.int32)


def _running(values: Array) -> Array:
    """Returns running sums; `cumsum` is a slow loop for so few numbers on a TPU."""
    at = jnp.arange(len(values))
    return jnp.where(at[None] <= at[:, None], values[None], 0).sum(1)
