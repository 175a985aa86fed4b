"""What a step computes: tokens fed, and each row's next one sampled."""

import dataclasses
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

# What `layers.linear.matvecs` needs: sums in any order, in the widest registers.
CPU_OPTIONS: dict[str, Any] = {
    "xla_cpu_enable_fast_math": True,
    "xla_cpu_prefer_vector_width": 512,
}


def run_step(
    config: ModelConfig,
    form: Form,
    target: Target,
    params: PyTree,
    pools: Pools,
    newest: Array,
    counts: dict[str, Array],
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
      ints: The packed plan's integers.
      floats: The packed plan's floats.

    Returns:
      The pools, the newest tokens, and for each token asked its next one and, where
      any row wants them, log-probabilities. Where the prediction layer runs, "drafts"
      has each row's guesses, [B, form.guesses].
    """
    step = packing.unpack(ints, floats, form, target)
    batch = _with_device_tokens(step, newest)
    by_row, step = step, packing.asked(step, form)
    if form.guesses:
        every, pools = model.step(config, params, pools, batch)
        hidden = batch.pick(every, step.last)
    else:
        hidden, pools = model.step(config, params, pools, batch, step.last)
    logits = model.logits(params, hidden)
    slot = jnp.minimum(step.slot, len(newest) - 1)
    rows = step.sampling
    plain = (rows.presence == 0) & (rows.frequency == 0) & (rows.repetition == 1)
    penalized = jax.lax.cond(
        plain.all(),
        lambda: logits,
        lambda: sampling.penalize(
            logits, counts["prompt"][slot], counts["answer"][slot], rows
        ),
    )
    uniform = sampling.draw(rows.seed, batch.positions[step.last] + 1)
    token = sampling.choose(penalized, rows, uniform)
    own, ids, best = jax.lax.cond(
        (step.logprobs != 0).any(),
        lambda: sampling.log_probabilities(logits, token, MAX_LOGPROBS),
        lambda: _no_logprobs(logits),
    )
    if form.geometry.decode_tokens == 1:  # else all newest tokens come from the host
        kept = jnp.where(step.samples != 0, step.slot, len(newest))
        newest = newest.at[kept].set(token, mode="drop")
    outputs = {"token": token, "logprob": own, "top_ids": ids, "top_logprobs": best}
    if form.guesses:
        outputs["drafts"], pools = guesses.guess(
            config, form, params, pools, batch, every, token, by_row
        )
    return pools, newest, outputs


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
