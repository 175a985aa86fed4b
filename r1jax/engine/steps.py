"""What a step computes: tokens fed, and each row's next one sampled."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import model
from r1jax.cache import Batch, Pools
from r1jax.config import ModelConfig
from r1jax.engine import guesses, packing, sampling
from r1jax.engine.packing import Form
from r1jax.engine.types import MAX_LOGPROBS
from r1jax.target import Target
from r1jax.typing import Array, PyTree

Outputs = dict[str, Array]
# What a step gives beside the tokens: of them, and in a step that scores of the prompt.
LOGPROBS = ("logprob", "top_ids", "top_logprobs")
PROMPT_LOGPROBS = ("prompt_logprob", "prompt_ids", "prompt_logprobs")

# Rows on a CPU. With SmolLM2's vocabulary a decode step of 32 rows then needs less than
# the 32 MB from which glibc asks the kernel for memory anew each time, to be cleared.
_SEARCHED_AT_ONCE = 8
_JUDGED_AT_ONCE = 32  # tokens; their logits are as much as a large decode's

# What `layers.linear.matvecs` needs: sums in any order, in the widest registers.
CPU_OPTIONS: dict[str, Any] = {
    "xla_cpu_enable_fast_math": True,
    "xla_cpu_prefer_vector_width": 512,
}
# Of the two libraries that XLA's CPU backend has for matrix products, Eigen, the older
# one, is the faster one for so many tokens (docs/decisions.md).
_EIGENS = range(17, 129)
_EIGEN: dict[str, Any] = {"xla_cpu_experimental_ynn_fusion_type": ""}


def cpu_options(tokens: int) -> dict[str, Any]:
    """Returns the options to compile a step with that feeds so many tokens."""
    return CPU_OPTIONS | (eigen_option() if tokens in _EIGENS else {})


@functools.cache
def eigen_option() -> dict[str, Any]:
    """Returns the option that chooses Eigen, where this XLA still has it."""
    try:
        jax.jit(jnp.negative).lower(0.0).compile(compiler_options=_EIGEN)
    except jax.errors.JaxRuntimeError:
        return {}
    return _EIGEN


def run_step(
    config: ModelConfig,
    form: Form,
    target: Target,
    params: PyTree,
    pools: Pools,
    newest: Array,
    counts: dict[str, Array],
    rules: dict[str, Array],
    ints: Array,
    floats: Array,
) -> tuple[Pools, Array, Outputs]:
    """Feeds a step's tokens and samples each row's next one.

    A row of several decode tokens has its next one sampled after each of them; what
    does not follow from an accepted guess is the host's to drop (engine/drafts.py).

    Args:
      config: The model.
      form: The sizes of the step.
      target: What it is compiled for.
      params: Parameters.
      pools: The cache (donated).
      newest: Each slot's last sampled token, int32 [slots] (donated).
      counts: Which tokens each slot's prompt and answer hold; see `count_tokens`.
      rules: Each slot's mask and biases; see `write_masks` and `write_biases`.
      ints: The packed plan's integers.
      floats: The packed plan's floats.

    Returns:
      The pools, the newest tokens, and for each token asked its next one and, where
      any row wants them, log-probabilities; in a step that scores also those of the
      chunks' tokens, by the flat index of the token before. Where the prediction layer
      runs, "drafts" has each row's guesses, [B, form.guesses].
    """
    step = packing.unpack(ints, floats, form, target)
    batch = _with_device_tokens(step, newest)
    by_row, step = step, packing.asked(step, form)
    every: Array | None = None
    if form.guesses or form.scores:
        every, pools = model.step(config, params, pools, batch)
        hidden = batch.pick(every, step.last)
    else:
        hidden, pools = model.step(config, params, pools, batch, step.last)
    logits = model.logits(params, hidden)
    slot = jnp.minimum(step.slot, len(newest) - 1)
    token, *logprobs = _choose(logits, batch, step, slot, counts, rules)
    if form.geometry.decode_tokens == 1:  # else all newest tokens come from the host
        kept = jnp.where(step.samples != 0, step.slot, len(newest))
        newest = newest.at[kept].set(token, mode="drop")
    outputs = {"token": token, **dict(zip(LOGPROBS, logprobs, strict=True))}
    if form.scores:
        assert every is not None
        assert step.targets is not None
        outputs |= _judge(params, every, step.targets, form)
    if form.guesses:
        assert every is not None
        outputs["drafts"], pools = guesses.guess(
            config, form, params, pools, batch, every, token, by_row
        )
    return pools, newest, outputs


def _choose(
    logits: Array,
    batch: Batch,
    step: packing.StepInput,
    slot: Array,
    counts: dict[str, Array],
    rules: dict[str, Array],
) -> tuple[Array, Array, Array, Array]:
    """Chooses the next tokens; returns them with log-probabilities, where asked.

    Rows that take the likeliest token as it is need no more than a look at the logits:
    where all do, one condition leaves everything else out.
    """
    rows = step.sampling
    at_once = _SEARCHED_AT_ONCE if batch.target.form == "cpu" else None

    def as_asked() -> tuple[Array, ...]:
        adjusted = _adjust(logits, step, slot, counts, rules)
        uniform = sampling.draw(rows.seed, batch.positions[step.last] + 1)
        token = sampling.choose(adjusted, rows, uniform, at_once)
        wanted = (step.logprobs != 0).any()
        return token, *jax.lax.cond(
            wanted,
            lambda: sampling.log_probabilities(logits, token, MAX_LOGPROBS),
            lambda: _no_logprobs(logits),
        )

    def greedily() -> tuple[Array, ...]:
        return sampling.likeliest(logits), *_no_logprobs(logits)

    special = (rows.temperature > 0) | _penalized(rows)
    special |= (step.rules != 0) | (step.logprobs != 0)
    return jax.lax.cond(special.any(), as_asked, greedily)


def _penalized(rows: sampling.RowSampling) -> Array:
    return (rows.presence != 0) | (rows.frequency != 0) | (rows.repetition != 1)


def _adjust(
    logits: Array,
    step: packing.StepInput,
    slot: Array,
    counts: dict[str, Array],
    rules: dict[str, Array],
) -> Array:
    """Applies biases, penalties and masks to the rows that have them, in this order.

    Penalties and masks would come to the same in the other order, but for penalties
    that bring a forbidden token back. Where no row has any, the logits pass as they
    are.
    """
    rows = step.sampling
    penalized = _penalized(rows)
    biased = (step.rules & packing.BIASED) != 0
    masked = (step.rules & packing.MASKED) != 0

    def bias(logits: Array) -> Array:
        values = jnp.where(biased[:, None], rules["biases"][slot], 0)
        return sampling.add_bias(logits, rules["biased"][slot], values)

    def penalize(logits: Array) -> Array:
        seen = counts["prompt"][slot], counts["answer"][slot]
        return sampling.penalize(logits, *seen, rows)

    def restrict(logits: Array) -> Array:
        every = np.uint32(2**32 - 1)
        masks = jnp.where(masked[:, None], rules["masks"][slot], every)
        return sampling.restrict(logits, masks)

    def adjust() -> Array:
        out = logits
        for some, apply in ((biased, bias), (penalized, penalize), (masked, restrict)):
            out = jax.lax.cond(some.any(), apply, lambda x: x, out)
        return out

    return jax.lax.cond((biased | penalized | masked).any(), adjust, lambda: logits)


def write_masks(rules: dict[str, Array], rows: Array) -> dict[str, Array]:
    """Gives slots new masks (`rules` is donated); see `rules.Changes` for the rows."""
    slot = rows[:, 0].astype(jnp.int32)
    masks = rules["masks"].at[slot].set(rows[:, 1:], mode="drop")
    return rules | {"masks": masks}


def write_biases(rules: dict[str, Array], rows: Array) -> dict[str, Array]:
    """Gives slots new biases (`rules` is donated); see `rules.Changes`."""
    slot, tokens, bits = rows[:, 0], *jnp.split(rows[:, 1:], 2, axis=1)
    biased = rules["biased"].at[slot].set(tokens, mode="drop")
    values = jax.lax.bitcast_convert_type(bits, jnp.float32)
    biases = rules["biases"].at[slot].set(values, mode="drop")
    return rules | {"biased": biased, "biases": biases}


def _judge(params: PyTree, hidden: Array, targets: Array, form: Form) -> Outputs:
    """Returns log-probabilities of the tokens that follow the chunks' tokens.

    Block by block, so that the logits of a long chunk are never there all at once.
    """
    g, shards = form.geometry, form.shards
    tokens = g.chunks * g.chunk_tokens
    pad = -tokens % _JUDGED_AT_ONCE

    def blocks(x: Array) -> Array:
        x = x.reshape(shards, g.tokens, *x.shape[1:])[:, g.first_chunk :]
        x = jnp.pad(x, [(0, 0), (0, pad), *[(0, 0)] * (x.ndim - 2)])
        x = x.reshape(shards, -1, _JUDGED_AT_ONCE, *x.shape[2:])
        return jnp.moveaxis(x, 1, 0).reshape(x.shape[1], -1, *x.shape[3:])

    def whole(x: Array) -> Array:
        x = x.reshape(len(x), shards, _JUDGED_AT_ONCE, *x.shape[2:])
        x = jnp.moveaxis(x, 0, 1).reshape(shards, tokens + pad, *x.shape[3:])
        x = x[:, :tokens]
        x = jnp.pad(x, [(0, 0), (g.first_chunk, 0), *[(0, 0)] * (x.ndim - 2)])
        return x.reshape(-1, *x.shape[2:])

    def judge(block: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        logits = model.logits(params, block[0])
        return sampling.log_probabilities(logits, block[1], MAX_LOGPROBS)

    found = jax.lax.map(judge, (blocks(hidden), blocks(targets)))
    return dict(zip(PROMPT_LOGPROBS, map(whole, found), strict=True))


def count_tokens(
    form: Form,
    target: Target,
    newest: Array,
    counts: dict[str, Array],
    ints: Array,
    floats: Array,
) -> dict[str, Array]:
    """Notes the tokens that a step feeds, for penalties (`counts` is donated).

    A token counts when it is fed: as prompt below the sequence's prompt length, as
    answer above it. So a sequence that prefills again after losing its pages comes to
    the same counts. A row that starts at position 0 begins with empty counts.
    """
    step = packing.unpack(ints, floats, form, target)
    batch = _with_device_tokens(step, newest)
    slots = len(newest)
    rows = batch.token_rows()
    fed = batch.positions >= 0
    begins = jnp.where(batch.positions[_first_tokens(form)] == 0, step.slot, slots)
    answer = (batch.positions >= step.prompt_length[rows]) & fed
    in_prompt = jnp.where(fed & ~answer, step.slot[rows], slots)
    in_answer = jnp.where(answer, step.slot[rows], slots)
    prompt = counts["prompt"].at[begins].set(False, mode="drop")
    tally = counts["answer"].at[begins].set(0, mode="drop")
    return {
        "prompt": prompt.at[in_prompt, batch.tokens].set(True, mode="drop"),
        "answer": tally.at[in_answer, batch.tokens].add(1, mode="drop"),
    }


def _first_tokens(form: Form) -> np.ndarray:
    """The flat index of each row's first token."""
    g = form.geometry
    chunks = g.first_chunk + np.arange(g.chunks) * g.chunk_tokens
    rows = np.concatenate([np.arange(g.decodes) * g.decode_tokens, chunks])
    return np.concatenate([rows + shard * g.tokens for shard in range(form.shards)])


def _with_device_tokens(step: packing.StepInput, newest: Array) -> Batch:
    """Fills in the tokens that only the device knows."""
    batch = step.batch
    rows = batch.token_rows()
    slot = jnp.minimum(step.slot[rows], len(newest) - 1)
    known = step.from_device[rows] == 0
    tokens = jnp.where(known, batch.tokens, newest[slot])
    return dataclasses.replace(batch, tokens=tokens)


def _no_logprobs(logits: Array) -> tuple[Array, Array, Array]:
    rows, few = len(logits), min(MAX_LOGPROBS, logits.shape[-1])
    none = jnp.zeros((rows, few))
    return jnp.zeros(rows), none.astype(jnp.int32), none
