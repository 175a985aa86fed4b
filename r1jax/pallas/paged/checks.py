"""Refuses what the core cannot work with, before anything is traced."""

from r1jax.errors import ConfigError
from r1jax.pallas.backend import Backend
from r1jax.pallas.paged.entries import Step
from r1jax.pallas.paged.pool import LANES
from r1jax.pallas.paged.shape import Blocks


def lanes(kernel: str, width: int, value_width: int) -> None:
    """Checks an entry's lanes against its value's."""
    if not 0 < value_width <= width:
        raise ConfigError(
            f"{kernel}: a value of {value_width} lanes in an entry of {width}",
            "the value is the first lanes of the entry",
            f"give a value_width of 1 to {width}",
        )


def call(
    kernel: str, step: Step, blocks: Blocks, scale: float, backend: Backend
) -> None:
    """Checks a step's sizes.

    Raises:
      ConfigError: Says which, why, and what would work.
    """
    _, _, heads, _, width = step.pool.values.shape
    if step.q.shape[1] % heads:
        raise ConfigError(
            f"{kernel}: {step.q.shape[1]} query heads over {heads} key heads",
            "each key head serves the same number of query heads",
            "give a multiple",
        )
    if step.new.shape[1:] != (heads, width):
        raise ConfigError(
            f"{kernel}: new entries of {step.new.shape[1:]}, pages of {(heads, width)}",
            "a new entry is written as it is",
            "lay the entries out as the pool's",
        )
    if not scale > 0:
        raise ConfigError(
            f"{kernel}: a softmax scale of {scale}",
            "the largest score is found before scaling",
            "give a positive scale",
        )
    if backend.kind in ("tpu", "interpret"):
        _layout(kernel, step, blocks)


def _layout(kernel: str, step: Step, blocks: Blocks) -> None:
    """Checks what memory tiles ask for."""
    *_, page, width = step.pool.values.shape
    item = step.pool.values.dtype.itemsize
    scaled = step.pool.scales is not None
    unit = LANES if scaled else 32 // min(item, 2)
    if width % LANES:
        raise ConfigError(
            f"{kernel}: entries of {width} lanes",
            f"a register has {LANES} lanes, and a copy moves whole ones",
            f"pad entries to {-(-width // LANES) * LANES}",
        )
    if page % unit:
        why = "scales lie along lanes" if scaled else f"{item} byte rows are packed"
        raise ConfigError(
            f"{kernel}: pages of {page} tokens",
            f"{why}, so pages must be aligned at {unit} tokens",
            f"use pages of {-(-page // unit) * unit}",
        )
    if blocks.keys % LANES or blocks.keys % page:
        raise ConfigError(
            f"{kernel}: blocks of {blocks.keys} keys with pages of {page}",
            f"a block holds whole pages and whole registers of {LANES} scores",
            f"use a multiple of {page} and of {LANES}",
        )
    split = blocks.piece % page and page % blocks.piece
    if blocks.keys % blocks.piece or blocks.piece % LANES or split:
        raise ConfigError(
            f"{kernel}: pieces of {blocks.piece} keys in blocks of {blocks.keys}",
            f"a piece holds whole registers of {LANES} scores, divides the block, and "
            "is whole pages or divides one",
            f"use a multiple of {LANES} that divides {blocks.keys}",
        )
    if blocks.depth < 2:
        raise ConfigError(
            f"{kernel}: {blocks.depth} blocks of keys in VMEM",
            "the next block is fetched while one is used",
            "use a depth of 2 or more",
        )
