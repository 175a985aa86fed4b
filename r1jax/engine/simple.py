"""One request, one loop, no pages, no batch: what the engine must equal.

Every token runs the whole sequence again from its beginning. Slow, and believed at
sight.
"""

import functools
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from r1jax import model
from r1jax.config import ModelConfig
from r1jax.engine.guides import Guide
from r1jax.engine.packing import halves
from r1jax.engine.sampling import (
    FORBIDDEN,
    RowSampling,
    choose_plain,
    draw,
    penalize,
)
from r1jax.engine.types import PromptLogprob, SamplingParams, check_tokens
from r1jax.errors import ConfigError
from r1jax.typing import Array, PyTree

_ROUND = 64  # lengths are padded to a multiple, to compile less often


@functools.cache
def whole_logits(
    config: ModelConfig, where: NamedSharding | None = None
) -> Callable[[PyTree, Array], Array]:
    """Returns the function from a sequence [T] to its logits [T, V], compiled once.

    `where` is where its result lies; None leaves that to XLA.
    """

    def run(params: PyTree, tokens: Array) -> Array:
        return model.logits(params, model.forward(config, params, tokens))

    return jax.jit(run, out_shardings=where)


@functools.cache
def _counts_of_experts(
    config: ModelConfig, where: NamedSharding | None
) -> Callable[[PyTree, Array, Array], Array]:
    """Returns the function that counts one sequence's choices, compiled once."""
    assert config.moe is not None
    experts = config.moe.experts

    def run(params: PyTree, tokens: Array, length: Array) -> Array:
        chosen = model.chosen_experts(config, params, tokens)
        real = jnp.arange(len(tokens)) < length
        chosen = jnp.where(real[None, :, None], chosen, experts)
        layers = chosen.reshape(len(chosen), -1)
        return jax.vmap(functools.partial(jnp.bincount, length=experts))(layers)

    return jax.jit(run, out_shardings=where)


def count_routes(
    config: ModelConfig,
    params: PyTree,
    sequences: Iterable[Sequence[int]],
    where: NamedSharding | None = None,
) -> np.ndarray:
    """Counts how often each layer's router chooses each expert.

    Args:
      config: Of a model with experts.
      params: Its parameters, in any arrangement.
      sequences: Token ids, each a whole sequence: what users ask and are answered.
      where: As of `whole_logits`.

    Returns:
      int64 [L, E], of the layers with experts; every token of every sequence counts.

    Raises:
      ConfigError: The model has no experts.
      RequestError: A sequence is empty, or has ids unknown to the model.
    """
    if config.moe is None:
        raise ConfigError(
            "no routes to count",
            "the model is dense: it has no experts",
            "count those of a model with experts, such as R1",
        )
    run = _counts_of_experts(config, where)
    total = np.zeros((config.moe_layers, config.moe.experts), np.int64)
    for tokens in sequences:
        check_tokens(config, tokens)
        total += np.asarray(run(params, padded(tokens), jnp.int32(len(tokens))))
    return total


def padded(tokens: Sequence[int]) -> Array:
    """Returns a sequence with zeros behind it, which no token before them sees."""
    array = np.zeros(-(-len(tokens) // _ROUND) * _ROUND, np.int32)
    array[: len(tokens)] = tokens
    return jnp.asarray(array)


def generate(
    config: ModelConfig,
    params: PyTree,
    prompt: Sequence[int],
    sampling: SamplingParams,
    *,
    max_model_len: int,
    seed: int = 0,
    guide: Guide | None = None,
) -> list[int]:
    """Answers one prompt; returns the answer's tokens, an end token included.

    `seed` is used where the request has none of its own. An answer whose rules leave
    no token ends there.
    """
    run = whole_logits(config)
    tokens = list(prompt)
    limit = max_model_len - len(prompt)
    if sampling.max_tokens is not None:
        limit = min(limit, sampling.max_tokens)
    ends = set(sampling.stop_token_ids)
    if not sampling.ignore_eos:
        ends |= set(config.eos_ids)
    row = _row(sampling, sampling.seed if sampling.seed is not None else seed)
    for _ in range(limit):
        logits = run(params, padded(tokens))[len(tokens) - 1][None]
        for token, bias in sampling.logit_bias:
            logits = logits.at[0, token].add(bias)
        in_prompt, answered = _counts(config, tokens, len(prompt))
        logits = penalize(logits, in_prompt, answered, row)
        out = _forbidden(config, sampling, guide, tokens[len(prompt) :])
        if out.all():
            break
        logits = jnp.where(out, FORBIDDEN, logits)
        uniform = draw(row.seed, jnp.array([len(tokens)]))
        tokens.append(int(choose_plain(logits, row, uniform)[0]))
        if tokens[-1] in ends:
            break
        if guide is not None:
            guide.advance(tokens[-1])
    return tokens[len(prompt) :]


def judge(
    config: ModelConfig, params: PyTree, prompt: Sequence[int], most: int
) -> list[PromptLogprob]:
    """Judges a prompt: what `types.Event.prompt` holds, with so many likeliest ones."""
    logits = np.asarray(whole_logits(config)(params, padded(prompt)), np.float64)
    judged: list[PromptLogprob] = [(prompt[0], None, ())]
    for before, token in zip(logits, prompt[1:], strict=False):
        values = before - np.log(np.exp(before - before.max()).sum()) - before.max()
        best = np.argsort(-values, kind="stable")[:most]
        likeliest = tuple((int(i), float(values[i])) for i in best)
        judged.append((token, float(values[token]), likeliest))
    return judged


def _forbidden(
    config: ModelConfig,
    sampling: SamplingParams,
    guide: Guide | None,
    answer: list[int],
) -> np.ndarray:
    """Returns which tokens may not come next, bool [V]."""
    out = np.zeros(config.vocab_size, bool)
    mask = None if guide is None else guide.mask()
    for token in range(config.vocab_size):
        if mask is not None and not int(mask[token // 32]) >> token % 32 & 1:
            out[token] = True
        allowed = sampling.allowed_token_ids
        if allowed is not None and token not in allowed:
            out[token] = True
    for *begin, last in sampling.bad_words:
        if answer[len(answer) - len(begin) :] == begin:
            out[last] = True
    if len(answer) < sampling.min_tokens:
        longer = out.copy()
        longer[[*config.eos_ids, *sampling.stop_token_ids]] = True
        if not longer.all():
            return longer
    return out


def _counts(config: ModelConfig, tokens: list[int], prompt: int) -> tuple[Array, Array]:
    in_prompt = np.zeros((1, config.vocab_size), bool)
    in_prompt[0, tokens[:prompt]] = True
    answered = np.zeros((1, config.vocab_size), np.int32)
    np.add.at(answered[0], tokens[prompt:], 1)
    return jnp.asarray(in_prompt), jnp.asarray(answered)


def _row(sampling: SamplingParams, seed: int) -> RowSampling:
    return RowSampling(
        temperature=jnp.float32([sampling.temperature]),
        top_p=jnp.float32([sampling.top_p]),
        min_p=jnp.float32([sampling.min_p]),
        presence=jnp.float32([sampling.presence_penalty]),
        frequency=jnp.float32([sampling.frequency_penalty]),
        repetition=jnp.float32([sampling.repetition_penalty]),
        top_k=jnp.int32([sampling.top_k]),
        seed=jnp.asarray(np.array([halves(seed)], np.uint32)),
    )
