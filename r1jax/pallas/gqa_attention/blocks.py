"""Block sizes of grouped-query attention, by shape; the chips do not differ in it."""

from r1jax.pallas.paged import blocks
from r1jax.pallas.paged.entries import Step
from r1jax.pallas.paged.shape import Blocks


def choose_decode(step: Step) -> Blocks:
    """Returns the sizes for one new token a sequence."""
    _, _, heads, page, width = step.pool.values.shape
    entry = heads * width * step.pool.values.dtype.itemsize
    return blocks.decode(entry, step.q.shape[1], page, step.page_table.shape[1])


def choose_mixed(step: Step) -> Blocks:
    """Returns the sizes for any number of new tokens."""
    tokens, heads, _ = step.q.shape
    groups, page = heads // step.pool.values.shape[2], step.pool.values.shape[3]
    sequences, pages = step.page_table.shape
    return blocks.mixed(groups, 512, 128, tokens, sequences, page, pages)
