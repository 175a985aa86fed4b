"""What a request hears of its prompt, however often the prompt is fed."""

import numpy as np
import pytest

from r1jax.cache import Geometry
from r1jax.engine.plans import Plan, Row, Sequence, Share
from r1jax.engine.results import fetch, result
from r1jax.engine.types import SamplingParams

GEOMETRY = Geometry(1, 1, 4)


def feed(sequence, start, count):
    """Runs a chunk whose outputs name the position of each token."""
    row = Row(sequence, start, count, False, False)
    plan = Plan([Share([], [row])], GEOMETRY, scores=True)
    at = np.arange(GEOMETRY.tokens) + start - GEOMETRY.decodes
    both = np.stack([at, at + 100], axis=1)
    outputs = {
        "token": np.zeros(2, np.int32),
        "prompt_logprob": -1.0 * at,
        "prompt_ids": both,
        "prompt_logprobs": -1.0 * both,
    }
    return fetch(plan, outputs)


def judged(tokens):
    """What comes of a prompt: each token with the position before it."""
    first = (tokens[0], None, ())
    return (
        first,
        *((t, -float(i), ((i, -float(i)),)) for i, t in enumerate(tokens[1:])),
    )


@pytest.mark.parametrize(
    "chunks",
    [
        [(0, 4), (4, 2)],
        [(0, 4), (0, 4), (4, 2)],  # pages lost in between
        [(0, 4), (2, 4)],  # and some found again
        [(0, 1), (1, 1), (2, 3), (5, 1)],
    ],
)
def test_a_prompt_is_judged_once_from_its_chunks(chunks):
    prompt = [7, 8, 9, 10, 11, 12]
    sequence = Sequence(1, [*prompt], 6, SamplingParams(prompt_logprobs=1), 9)
    for chunk in chunks:
        read = feed(sequence, *chunk)
    sequence.tokens.append(3)
    assert result(sequence, 0, read, ()).prompt == judged(prompt)


def test_a_prompt_that_is_fed_again_after_the_answer_began_is_not_judged_again():
    sequence = Sequence(1, [7, 8], 2, SamplingParams(prompt_logprobs=1), 9)
    read = feed(sequence, 0, 2)
    sequence.tokens.append(3)
    assert result(sequence, 0, read, ()).prompt == judged([7, 8])
    read = feed(sequence, 0, 3)  # beside another, whose prompt is judged
    sequence.tokens.append(4)
    assert result(sequence, 0, read, ()).prompt == ()
