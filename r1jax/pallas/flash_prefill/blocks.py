"""Block sizes by chip and shape."""

import math
from typing import NamedTuple

from r1jax.pallas.chips import Chip

_LANES = 128


class Blocks(NamedTuple):
    """How a call is cut.

    Attributes:
      q: Queries that are scored together.
      k: Keys in one pass of the loop.
      part: Keys in one matrix product within a pass.
      held_q: Queries of a head in VMEM.
      held_k: Keys of a head in VMEM.
    """

    q: int
    k: int
    part: int
    held_q: int
    held_k: int


# By the compiler's schedule over a few points: queries, keys, part.
_BEST = {"v5e": (512, 512, 512), "v6e": (512, 1024, 512), "v7x": (512, 1024, 256)}
# Behind a prefix at least as long as the chunk few blocks lie on the diagonal, where a
# larger one would waste more than it saves.
_BEHIND = {"v6e": (1024, 1024, 512), "v7x": (1024, 1024, 512)}
# Keys of more than one tile of lanes load the matrix unit twice for each part.
_WIDE = {"v7x": (512, 1024, 512)}
_OTHER = (512, 512, 512)
_HELD_Q = 4096
_HELD_K = 8192


def choose(queries: int, keys: int, width: int, chip: Chip) -> Blocks:
    """Returns block sizes for T queries and S keys, H wide; T is a multiple of 128.

    The largest divisors below the table's sizes, so that no block is padded but
    the last one of keys.
    """
    q, k, part = _BEST.get(chip.name, _OTHER)
    if width > _LANES:
        q, k, part = _WIDE.get(chip.name, (q, k, part))
    if keys >= 2 * queries:
        q, k, part = _BEHIND.get(chip.name, (q, k, part))
    q = _divisor(queries, q, _LANES)
    k = min(k, _up(keys, _LANES))
    part = math.gcd(part, k)
    chunks = -(-keys // _HELD_K)
    held_k = _up(-(-keys // chunks), k)
    return Blocks(q, k, part, _divisor(queries, _HELD_Q, q), held_k)


def _divisor(size: int, most: int, unit: int) -> int:
    """Returns the largest multiple of a unit up to `most` that divides the size."""
    fitting = range(unit, min(size, most) + 1, unit)
    return max((n for n in fitting if size % n == 0), default=unit)


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit
