"""Logits to tokens, on the device, inside the step.

Every filter keeps a prefix of the tokens in order of likelihood, so one number drawn
uniformly decides: the chosen token is the one where the running sum of probabilities
passes that share of what was kept. Nearly always it lies among the few likeliest
tokens, so only those are sorted; where they do not settle the matter the token is
searched for (`search.py`). `choose_plain`, which sorts the vocabulary, is the meaning.
"""

import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from r1jax.engine.search import search
from r1jax.typing import Array, Bool, Float, Int, UInt32, typechecked

CANDIDATES = 64
# The logit of a token that may not come; finite, so that differences stay numbers.
FORBIDDEN = -1e30


@flax.struct.dataclass
class RowSampling:
    """Sampling parameters of a step's rows; see `types.SamplingParams`."""

    temperature: Float[Array, " B"]
    top_p: Float[Array, " B"]
    min_p: Float[Array, " B"]
    presence: Float[Array, " B"]
    frequency: Float[Array, " B"]
    repetition: Float[Array, " B"]
    top_k: Int[Array, " B"]
    seed: UInt32[Array, "B 2"]


@typechecked
def add_bias(
    logits: Float[Array, "B V"], ids: Int[Array, "B K"], values: Float[Array, "B K"]
) -> Float[Array, "B V"]:
    """Adds numbers to some of each row's logits; ids beyond the vocabulary add none."""
    rows = jnp.arange(len(logits))[:, None]
    return logits.at[rows, ids].add(values, mode="drop")


@typechecked
def restrict(
    logits: Float[Array, "B V"], masks: UInt32[Array, "B words"]
) -> Float[Array, "B V"]:
    """Forbids the tokens whose bits are not set; see `guides.Guide` for masks."""
    bits = (masks[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)[None, None]) & 1
    allowed = bits.reshape(len(masks), -1)[:, : logits.shape[-1]] != 0
    return jnp.where(allowed, logits, FORBIDDEN)


@typechecked
def penalize(
    logits: Float[Array, "B V"],
    in_prompt: Bool[Array, "B V"],
    answered: Int[Array, "B V"],
    rows: RowSampling,
) -> Float[Array, "B V"]:
    """Applies the repetition, frequency and presence penalties, in that order."""
    seen = in_prompt | (answered > 0)
    rate = jnp.where(seen, rows.repetition[:, None], 1.0)
    logits = jnp.where(logits > 0, logits / rate, logits * rate)
    logits = logits - rows.frequency[:, None] * answered
    return logits - rows.presence[:, None] * (answered > 0)


@typechecked
def draw(seed: UInt32[Array, "B 2"], position: Int[Array, " B"]) -> Float[Array, " B"]:
    """Returns a number in [0, 1) that depends on a row's seed and position alone."""

    def one(seed: Array, position: Array) -> Array:
        key = jax.random.wrap_key_data(seed, impl="threefry2x32")
        return jax.random.uniform(jax.random.fold_in(key, position))

    return jax.vmap(one)(seed, position)


@typechecked
def choose(
    logits: Float[Array, "B V"],
    rows: RowSampling,
    uniform: Float[Array, " B"],
    at_once: int | None = None,
) -> Int[Array, " B"]:
    """Chooses each row's token; temperature 0 takes the likeliest (lowest id on ties).

    Args:
      logits: After bias, masks and penalties, float32. Each row has a token that is
        not forbidden.
      rows: The rows' parameters.
      uniform: A draw in [0, 1) for each row.
      at_once: How many rows are searched for together at most; all by default. Fewer
        take less memory, and no time for groups without a token to find.
    """
    greedy = likeliest(logits)

    def sample() -> Array:
        few = jax.lax.top_k(logits, min(CANDIDATES, logits.shape[-1]))
        # Without barriers XLA sorts the vocabulary for them on a CPU. One for both
        # would end the compiler (jaxlib 0.10.2) where the vocabulary is cut.
        ordered, ids = (jax.lax.optimization_barrier(each) for each in few)
        token, settled = _pick(ordered, ids, logits, rows, uniform)
        settled |= rows.temperature == 0
        each = (logits, rows, uniform, token, settled)
        return _search(*each) if at_once is None else _search_groups(each, at_once)

    sampled = jax.lax.cond((rows.temperature > 0).any(), sample, lambda: greedy)
    return jnp.where(rows.temperature == 0, greedy, sampled)


def _search(
    logits: Array, rows: RowSampling, uniform: Array, token: Array, settled: Array
) -> Array:
    """Searches for the tokens of rows that are not settled."""
    found = jax.lax.cond(
        settled.all(), lambda: token, lambda: search(logits, rows, uniform)
    )
    return jnp.where(settled, token, found)


def _search_groups(each: tuple[Any, ...], at_once: int) -> Array:
    """Does the same for a group of rows after the other."""
    *_, token, settled = each
    size = math.gcd(len(token), at_once)
    groups = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), each)

    def search_all() -> Array:
        return jax.lax.map(lambda group: _search(*group), groups).reshape(-1)

    return jax.lax.cond(settled.all(), lambda: token, search_all)


def likeliest(logits: Array) -> Array:
    """Returns argmax; on a CPU two passes are faster than XLA's own."""
    ids = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    best = logits == jnp.max(logits, axis=-1, keepdims=True)
    return jnp.min(jnp.where(best, ids[None, :], logits.shape[-1] - 1), axis=-1)


@typechecked
def choose_plain(
    logits: Float[Array, "B V"], rows: RowSampling, uniform: Float[Array, " B"]
) -> Int[Array, " B"]:
    """Chooses each row's token with its whole vocabulary sorted."""
    order = jnp.argsort(-logits, axis=-1, stable=True)
    ordered = jnp.take_along_axis(logits, order, axis=-1)
    token, _ = _pick(ordered, order.astype(jnp.int32), logits, rows, uniform)
    return jnp.where(rows.temperature == 0, order[:, 0].astype(jnp.int32), token)


def _pick(
    ordered: Array, ids: Array, logits: Array, rows: RowSampling, uniform: Array
) -> tuple[Array, Array]:
    """Picks among the likeliest tokens; tells for which rows that settles it."""
    vocabulary, few = logits.shape[-1], ordered.shape[-1]
    warmth = jnp.where(rows.temperature > 0, rows.temperature, 1.0)[:, None]
    # Less the largest before dividing: a cold temperature would lose the difference.
    peak = ordered[:, :1]
    total = jnp.sum(jnp.exp((logits - peak) / warmth), axis=-1, keepdims=True)
    share = jnp.exp((ordered - peak) / warmth) / total
    running = jnp.cumsum(share, axis=-1)

    limit = jnp.where(rows.top_k > 0, rows.top_k, vocabulary)[:, None]
    limited = limit < vocabulary
    rank = jnp.arange(few)[None, :]
    in_top_k = rank < limit
    top_k_mass = jnp.where(
        limited, jnp.sum(share * in_top_k, axis=-1, keepdims=True), 1.0
    )
    nucleus = rows.top_p[:, None] < 1
    in_top_p = ~nucleus | (running - share < rows.top_p[:, None] * top_k_mass)
    in_min_p = share >= rows.min_p[:, None] * share[:, :1]
    # A share of nothing is a token forbidden, or too unlikely to come: rounding must
    # not let it.
    keep = in_top_k & in_top_p & in_min_p & (share > 0)
    kept = keep.sum(axis=-1)

    free = ~limited & ~nucleus & (rows.min_p[:, None] == 0)
    mass = jnp.where(free, 1.0, jnp.sum(share * keep, axis=-1, keepdims=True))
    target = uniform[:, None] * mass
    index = jnp.sum(running <= target, axis=-1)
    if few == vocabulary:
        settled = jnp.ones(len(ids), bool)
    else:
        beyond = limited[:, 0] & (limit[:, 0] > few)
        settled = jnp.where(free[:, 0], index < few, (kept < few) & ~beyond)
        settled |= share[:, -1] == 0  # nor is there anything behind it
    index = jnp.minimum(index, jnp.maximum(kept, 1) - 1)
    return jnp.take_along_axis(ids, index[:, None], axis=-1)[:, 0], settled


@typechecked
def log_probabilities(
    logits: Float[Array, "B V"], tokens: Int[Array, " B"], count: int
) -> tuple[Float[Array, " B"], Int[Array, "B few"], Float[Array, "B few"]]:
    """Returns the tokens' log-probabilities, and the `count` likeliest with theirs."""
    log_total = jax.nn.logsumexp(logits, axis=-1)
    own = jnp.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
    best, ids = jax.lax.top_k(logits, min(count, logits.shape[-1]))
    return own - log_total, ids.astype(jnp.int32), best - log_total[:, None]
