"""Which problems are held out of training: by hash of their operands.

The hash is of the pair of numbers alone, in no order and whatever is done with them, so
a pair that is held out is met in training in no task: not asked, not inside a longer
expression, not as the partial products of a multiplication. Pairs of one digit with one
or two are never held out: the columns of all thoughts are made of them.
"""

import functools
import hashlib
from collections.abc import Iterable

Pair = tuple[int, int]
ONE_IN = 10  # of all pairs is held out


def numbers_key(*numbers: int) -> str:
    """Returns the key of operands, the largest first."""
    return ",".join(map(str, sorted(numbers, reverse=True)))


@functools.lru_cache(maxsize=1 << 18)
def held_out(key: str) -> bool:
    """Tells whether a key is on the side that training never sees."""
    if len(key) <= len("99,9"):
        return False
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % ONE_IN == 0


def trainable(key: str, pairs: Iterable[Pair]) -> bool:
    """Tells whether a problem whose thought works on these pairs may be trained on."""
    return not held_out(key) and not any(held_out(numbers_key(*p)) for p in pairs)
