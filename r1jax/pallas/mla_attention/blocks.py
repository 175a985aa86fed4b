"""Block sizes of absorbed attention, by chip and shape."""

from dataclasses import replace

from r1jax.pallas.backend import Backend
from r1jax.pallas.paged import blocks
from r1jax.pallas.paged.entries import Step
from r1jax.pallas.paged.shape import Blocks

# Keys of a decode block; elsewhere the rule's. From the TPU compiler's schedules.
_KEYS = {"v5e": 1024}


def choose_decode(backend: Backend, step: Step) -> Blocks:
    """Returns the sizes for one new token a sequence."""
    *_, page, width = step.pool.values.shape
    entry, pages = width * step.pool.values.dtype.itemsize, step.page_table.shape[1]
    found = blocks.decode(entry, step.q.shape[1], page, pages)
    keys = _KEYS.get(backend.chip.name if backend.chip else "", 2048)
    return blocks.fitted(replace(found, keys=keys), page, pages)


def choose_mixed(step: Step) -> Blocks:
    """Returns the sizes for any number of new tokens."""
    tokens, heads, _ = step.q.shape
    sequences, pages = step.page_table.shape
    page = step.pool.values.shape[3]
    return blocks.mixed(heads, 2048, 512, tokens, sequences, page, pages)
