"""Log-probabilities of prompts, on real arrays."""

import pytest

from engine.collect import ask, submit
from engine.toy_engine import CONFIG, LONGEST, REQUESTS, prompt_of
from r1jax.engine import simple


def near(judged, wanted):
    """Whether two judgements are one, where equal numbers may change places."""
    assert [token for token, _, _ in judged] == [token for token, _, _ in wanted]
    assert judged[0] == wanted[0] == (judged[0][0], None, ())
    for (_, own, best), (_, other, likeliest) in zip(
        judged[1:], wanted[1:], strict=True
    ):
        assert own == pytest.approx(other, abs=1e-5)
        values = dict(best)
        assert values == pytest.approx(dict(likeliest), abs=1e-5)
        assert [*values.values()] == sorted(values.values(), reverse=True)


def test_prompts_are_judged_as_the_plain_loop_judges_them(engine, params):
    """Chunk by chunk where they are long, beside answers that go on."""
    lengths = (1, 2, 17, 100, LONGEST - 1, LONGEST)
    other = submit(engine, prompt_of(5), max_tokens=40, temperature=1, seed=1)[1]
    answers = [
        submit(
            engine, prompt_of(length), max_tokens=0 if n % 2 else 1, prompt_logprobs=n
        )[1]
        for n, length in enumerate(lengths)
    ]
    for n, (length, answer) in enumerate(zip(lengths, answers, strict=True)):
        [event] = answer.wait().events
        assert event.finish == "length"
        assert (event.token is None) == bool(n % 2)
        near(event.prompt, simple.judge(CONFIG, params, prompt_of(length), n))
    assert len(other.wait().tokens) == 40


def test_a_judged_prompt_is_answered_as_any_other(engine, params, plain_answers):
    length, sampling = REQUESTS[1]
    answer = ask(engine, prompt_of(length), **sampling, prompt_logprobs=20)
    assert answer.tokens == plain_answers[1]
    near(answer.events[0].prompt, simple.judge(CONFIG, params, prompt_of(length), 20))
    assert not any(event.prompt for event in answer.events[1:])
