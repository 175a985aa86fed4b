"""What a Pallas pipeline runs and copies.

A block comes again only where its index changes from one step to the next.
"""

import itertools
from collections.abc import Callable, Sequence

# Passes of a grid's loop beyond its steps: copies run ahead, results behind.
STAGES = 2


def fetches(grid: Sequence[int], index: Callable[..., object]) -> int:
    """Counts the blocks that a grid's steps bring in, the last axis fastest."""
    places = [index(*step) for step in itertools.product(*map(range, grid))]
    return sum(a != b for a, b in itertools.pairwise([None, *places]))
