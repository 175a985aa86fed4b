"""From the arrays of a step to what a request hears of it."""

from collections.abc import Collection, Mapping

import numpy as np

from r1jax.engine.scheduler import Sequence
from r1jax.engine.types import Event


def result(
    sequence: Sequence, i: int, read: Mapping[str, np.ndarray], ends: Collection[int]
) -> Event:
    """Makes the event of a sequence's newest token, the last of `sequence.tokens`.

    Args:
      sequence: Whose token it is.
      i: The row of the step that has sampled it.
      read: The step's outputs; "token" alone where no row wants log-probabilities.
      ends: The model's own end tokens.
    """
    token, sampling = sequence.tokens[-1], sequence.sampling
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    if sampling.logprobs is not None:
        logprob = float(read["logprob"][i])
        ids, values = read["top_ids"][i], read["top_logprobs"][i]
        pairs = zip(ids.tolist(), values.tolist(), strict=True)
        top = tuple(pairs)[: sampling.logprobs]
    finish = _finish(sequence, token, ends)
    queued = sequence.queued
    return Event(sequence.id, token, logprob, top, queued_seconds=queued, finish=finish)


def _finish(sequence: Sequence, token: int, ends: Collection[int]) -> str | None:
    sampling = sequence.sampling
    if token in sampling.stop_token_ids:
        return "stop"
    if token in ends and not sampling.ignore_eos:
        return "stop"
    known = len(sequence.tokens) - sequence.prompt_length
    return "length" if known >= sequence.limit else None
