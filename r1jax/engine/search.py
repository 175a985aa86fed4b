"""Finds a sampled token without sorting the vocabulary.

Sorted by likelihood (of equals the lowest id first), what the filters keep is a prefix,
and the token is the one where the running sum of probabilities passes a number drawn.
Both are found by halving the range of logits: the sum of the probabilities above one
takes a pass, and 32 passes find any float. `sampling.choose_plain`, which sorts, is the
meaning; a CPU takes ten times as long for it (docs/decisions.md).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from r1jax.typing import Array

if TYPE_CHECKING:
    from r1jax.engine.sampling import RowSampling

_LOW, _HIGH = -(2**31), 2**31 - 1


class _Prefix(NamedTuple):
    """The tokens above a key, and the first few that have it, of each row [B, 1]."""

    key: Array
    ties: Array


class _Tokens(NamedTuple):
    """Each token's key, which orders as logits do, and its probability, [B, V]."""

    keys: Array
    share: Array

    def above(self, key: Array) -> Array:
        """Sums the probabilities of tokens above a key [B, 1]."""
        return jnp.sum(jnp.where(self.keys > key, self.share, 0), -1, keepdims=True)

    def more(self, key: Array) -> Array:
        """Counts the tokens above a key."""
        return jnp.sum(self.keys > key, -1, keepdims=True)

    def of(self, key: Array) -> Array:
        """Returns the probability of a token that has a key."""
        return jnp.max(jnp.where(self.keys == key, self.share, 0), -1, keepdims=True)


def search(logits: Array, rows: "RowSampling", uniform: Array) -> Array:
    """Chooses each row's token, of rows whose temperature is above 0.

    Args:
      logits: After penalties, float32 [B, V].
      rows: The rows' parameters.
      uniform: A draw in [0, 1) for each row, [B].
    """
    warmth = jnp.where(rows.temperature > 0, rows.temperature, 1.0)[:, None]
    logits = jnp.where(logits == 0, 0.0, logits)  # of the two zeros one
    weights = jnp.exp((logits - jnp.max(logits, -1, keepdims=True)) / warmth)
    share = weights / jnp.sum(weights, axis=-1, keepdims=True)
    tokens = _Tokens(_keys(logits), share)
    kept, mass = _kept(tokens, rows)
    target = uniform[:, None] * mass
    key = _first_key(tokens.above, target)
    tie = jnp.floor((target - tokens.above(key)) / tokens.of(key)).astype(jnp.int32)
    ties = jnp.sum(tokens.keys == key, -1, keepdims=True)
    tie = jnp.clip(tie, 0, ties - 1)
    # Rounding may lead one beyond the last token that is kept.
    tie = jnp.where(key < kept.key, kept.ties - 1, tie)
    tie = jnp.where(key == kept.key, jnp.minimum(tie, kept.ties - 1), tie)
    return _tied(tokens.keys == jnp.maximum(key, kept.key), tie)[:, 0]


def _kept(tokens: _Tokens, rows: "RowSampling") -> tuple[_Prefix, Array]:
    """Returns what top-k, top-p and min-p keep, and its probability."""
    vocabulary, most = tokens.keys.shape[-1], rows.top_k[:, None]
    possible = jnp.where(tokens.share > 0, tokens.keys, _HIGH)
    lowest = jnp.min(possible, -1, keepdims=True)
    whole = _Prefix(lowest, jnp.full_like(lowest, vocabulary))
    limited = (most > 0) & (most < vocabulary)

    def first_few() -> tuple[_Prefix, Array]:
        key = _first_key(tokens.more, most - 1)
        some = _Prefix(key, most - tokens.more(key))
        mass = tokens.above(key) + some.ties * tokens.of(key)
        return _where(limited, some, whole), jnp.where(limited, mass, 1.0)

    def all_of_them() -> tuple[_Prefix, Array]:
        return whole, jnp.ones(lowest.shape)

    kept, mass = jax.lax.cond(limited.any(), first_few, all_of_them)
    nucleus = rows.top_p[:, None] < 1
    # Kept is what begins below the limit; the float before it makes that "not above".
    limit = jnp.nextafter(rows.top_p[:, None] * mass, 0.0)
    key = _first_key(tokens.above, limit)
    ties = jnp.floor((limit - tokens.above(key)) / tokens.of(key)).astype(jnp.int32) + 1
    kept = _fewer(kept, _where(nucleus, _Prefix(key, ties), whole))
    least = rows.min_p[:, None] * jnp.max(tokens.share, -1, keepdims=True)
    enough = jnp.where(tokens.share >= least, tokens.keys, _HIGH)
    least_key = jnp.min(enough, -1, keepdims=True)
    likely = rows.min_p[:, None] > 0
    kept = _fewer(kept, _where(likely, _Prefix(least_key, whole.ties), whole))
    ties = jnp.minimum(kept.ties, jnp.sum(tokens.keys == kept.key, -1, keepdims=True))
    kept = _Prefix(kept.key, ties)
    mass = tokens.above(kept.key) + ties * tokens.of(kept.key)
    free = ~limited & ~nucleus & ~likely
    return kept, jnp.where(free, 1.0, mass)


def _keys(logits: Array) -> Array:
    """Returns int32 numbers in the order of float32 ones."""
    bits = jax.lax.bitcast_convert_type(logits, jnp.int32)
    return jnp.where(bits < 0, bits ^ _HIGH, bits)


def _first_key(above: Callable[[Array], Array], limit: Array) -> Array:
    """Returns the lowest key [B, 1] above which there is no more than a limit."""

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low & high) + ((low ^ high) >> 1)
        fits = above(middle) <= limit
        return jnp.where(fits, low, middle + 1), jnp.where(fits, middle, high)

    low = jnp.full(limit.shape, _LOW, jnp.int32)
    high = jnp.full(limit.shape, _HIGH, jnp.int32)
    return jax.lax.fori_loop(0, 32, halve, (low, high))[0]


def _tied(has: Array, number: Array) -> Array:
    """Returns the id of the number-th token [B, 1] that `has` marks, from 0."""
    ids = jnp.arange(has.shape[-1])[None, :]

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) // 2
        before = jnp.sum(has & (ids <= middle), -1, keepdims=True)
        fits = before > number
        return jnp.where(fits, low, middle + 1), jnp.where(fits, middle, high)

    low = jnp.zeros(number.shape, jnp.int32)
    rounds = (has.shape[-1] - 1).bit_length()
    return jax.lax.fori_loop(0, rounds, halve, (low, low + has.shape[-1] - 1))[0]


def _where(which: Array, one: _Prefix, other: _Prefix) -> _Prefix:
    return _Prefix(*(jnp.where(which, a, b) for a, b in zip(one, other, strict=True)))


def _fewer(one: _Prefix, other: _Prefix) -> _Prefix:
    """Returns the shorter of two prefixes."""
    shorter = (one.key > other.key) | (
        (one.key == other.key) & (one.ties <= other.ties)
    )
    return _where(shorter, one, other)
