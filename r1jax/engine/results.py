"""From the arrays of a step to what a request hears of it."""

from collections.abc import Collection, Mapping

import jax
import numpy as np

from r1jax.engine.plans import Plan, Row, Sequence
from r1jax.engine.steps import LOGPROBS, PROMPT_LOGPROBS, Outputs
from r1jax.engine.types import Event


def fetch(plan: Plan, outputs: Outputs) -> dict[str, np.ndarray]:
    """Waits for a step's outputs; notes what they say of prompts that are judged.

    Returns:
      Those that some row asks for; "token" always.
    """
    rows = list(plan.placed())
    sampled = [row.sequence.sampling for _, _, row in rows if row.samples]
    names = ["token"]
    names += LOGPROBS if any(each.logprobs is not None for each in sampled) else ()
    names += PROMPT_LOGPROBS if plan.scores else ()
    names += ["drafts"] if "drafts" in outputs else []
    read: dict[str, np.ndarray] = jax.device_get(
        {name: outputs[name] for name in names}
    )
    for _, place, row in rows if plan.scores else ():
        if not row.decode and _unjudged(row.sequence):
            _judge(row, place, read)
    return read


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
    first = len(sequence.tokens) == sequence.prompt_length + 1
    cached = sequence.cached or 0 if first else 0
    prompt, sequence.judged = tuple(sequence.judged), []
    return Event(
        sequence.id,
        token,
        logprob,
        top,
        cached_tokens=cached,
        queued_seconds=sequence.queued,
        prompt=prompt,
        finish=finish,
    )


def end_without_token(sequence: Sequence) -> Event | None:
    """Makes the last event of a sequence that takes no token; None if it takes one.

    Its rules may leave none, or only its prompt was to be judged.
    """
    if sequence.stuck is not None:
        return Event(sequence.id, finish="error", error=sequence.stuck)
    if sequence.limit == 0:
        return Event(sequence.id, prompt=tuple(sequence.judged), finish="length")
    return None


def _unjudged(sequence: Sequence) -> bool:
    """Whether a prompt is to be judged, and its answer has not begun."""
    begun = len(sequence.tokens) > sequence.prompt_length
    return sequence.sampling.prompt_logprobs is not None and not begun


def _judge(row: Row, place: int, read: Mapping[str, np.ndarray]) -> None:
    """Notes the log-probabilities of the prompt's tokens that follow a chunk's.

    Args:
      row: The chunk.
      place: The flat index of its first token.
      read: The outputs of a step that scores.
    """
    sequence, most = row.sequence, row.sequence.sampling.prompt_logprobs
    if row.start == 0:
        sequence.judged = [(sequence.tokens[0], None, ())]
    del sequence.judged[row.start + 1 :]  # fed again after its pages were lost
    assert len(sequence.judged) == row.start + 1, "some of the prompt was not fed"
    known = min(row.start + row.count + 1, sequence.prompt_length)
    tokens = sequence.tokens[row.start + 1 : known]
    cut = slice(place, place + len(tokens))
    own = read["prompt_logprob"][cut].tolist()
    ids = read["prompt_ids"][cut, :most].tolist()
    best = read["prompt_logprobs"][cut, :most].tolist()
    for token, logprob, *likeliest in zip(tokens, own, ids, best, strict=True):
        top = tuple(zip(*likeliest, strict=True))
        sequence.judged.append((token, logprob, top))


def _finish(sequence: Sequence, token: int, ends: Collection[int]) -> str | None:
    sampling = sequence.sampling
    if token in sampling.stop_token_ids:
        return "stop"
    if token in ends and not sampling.ignore_eos:
        return "stop"
    known = len(sequence.tokens) - sequence.prompt_length
    return "length" if known >= sequence.limit else None
