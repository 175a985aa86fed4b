"""Rules on real arrays: masks, biases and guides, beside requests that have none."""

import pytest

from engine.collect import ask, submit
from engine.toy_engine import REQUESTS, plain, prompt_of
from engine.toy_guides import Ends, Swings, Turns
from r1jax.engine.runner import Message

# Prompt length, sampling and guide of requests that may not say everything. Of the
# plain answers to these prompts, what is forbidden here would come at once.
RULED = [
    (5, dict(temperature=0.0, logit_bias=((7, 100.0), (9, 3.5))), None),
    (70, dict(temperature=1.0, seed=3, logit_bias=((7, -100.0), (63, 4.0))), None),
    (30, dict(temperature=0.0, allowed_token_ids=(1, 40, 63)), None),
    (12, dict(temperature=2.0, top_k=40, seed=4, allowed_token_ids=(0, 33)), None),
    (3, dict(temperature=0.0, bad_words=((5,), (17,), (17, 40))), None),
    (33, dict(temperature=0.0, min_tokens=12), None),
    (64, dict(temperature=0.9, min_tokens=30, seed=8), None),
    (9, dict(temperature=0.0), lambda: Turns(64)),
    (100, dict(temperature=1.2, top_p=0.9, seed=5, logprobs=2), lambda: Turns(64)),
    (1, dict(temperature=0.0), lambda: Swings(50, 3, 64)),
    (
        17,
        dict(
            temperature=0.8,
            seed=6,
            min_tokens=25,
            repetition_penalty=1.3,
            frequency_penalty=0.5,
            logit_bias=((2, 5.0),),
            bad_words=((2, 4), (4, 2), (6,)),
        ),
        lambda: Turns(64),
    ),
]


def ruled(params):
    """RULED, with the words and end tokens that bite, and 40 tokens at most."""
    for length, sampling, guide in RULED:
        asked = {"max_tokens": 40, **sampling}
        free = plain(params, prompt_of(length), temperature=0, max_tokens=8)
        if "bad_words" in sampling:
            asked["bad_words"] += ((free[0],), tuple(free[1:3]))
        if "min_tokens" in sampling:
            asked["stop_token_ids"] = tuple({*free, *range(0, 64, 3)})
        yield prompt_of(length), asked, guide or (lambda: None)


@pytest.fixture(scope="module")
def ruled_answers(params):
    """What the plain loop answers to each of RULED."""
    return [
        plain(params, prompt, guide(), **asked)
        for prompt, asked, guide in ruled(params)
    ]


def test_rules_bite_in_the_plain_loop(params, ruled_answers):
    """So that what holds of the engine below is not held by chance."""
    for i, (prompt, asked, _) in enumerate(ruled(params)):
        rules = ("logit_bias", "allowed_token_ids", "bad_words", "min_tokens")
        free = {name: value for name, value in asked.items() if name not in rules}
        assert plain(params, prompt, **free) != ruled_answers[i], RULED[i]
    assert set(ruled_answers[2]) <= {1, 40, 63}
    assert len(ruled_answers[6]) >= 30
    assert [token % 2 for token in ruled_answers[7]] == [0, 1] * 20
    assert ruled_answers[9][3:] == [3, 50] * 18 + [3]


def test_a_crowd_with_rules_gets_the_tokens_of_the_plain_loop(
    engine, params, plain_answers, ruled_answers
):
    """Beside others that have none, whatever slots and pages they lose meanwhile."""
    before = engine.stats()
    answers = []
    for i, (prompt, asked, guide) in enumerate(ruled(params)):
        answers.append(submit(engine, prompt, guide(), **asked)[1])
        if i < len(REQUESTS):
            length, sampling = REQUESTS[i]
            free = {"max_tokens": 40, **sampling}
            answers.append(submit(engine, prompt_of(length), **free)[1])
    wanted = iter(ruled_answers), iter(plain_answers)
    for i, answer in enumerate(answers):
        assert answer.wait().tokens == next(wanted[i % 2] if i < 20 else wanted[0]), i
    if engine.options.max_num_seqs == 3:
        assert engine.stats().preemptions > before.preemptions


def test_the_bytes_of_a_step_say_all_that_another_process_must_know(
    roomy, monkeypatch, params, ruled_answers
):
    run = roomy._runner.run
    monkeypatch.setattr(
        roomy._runner, "run", lambda step: run(Message.from_bytes(step.to_bytes()))
    )
    answers = [
        submit(roomy, prompt, guide(), **asked, prompt_logprobs=1)[1]
        for prompt, asked, guide in ruled(params)
    ]
    for answer, wanted in zip(answers, ruled_answers, strict=True):
        assert answer.wait().tokens == wanted


def test_logprobs_are_of_the_model_before_its_rules(roomy):
    length, asked = 20, dict(max_tokens=1, logprobs=3)
    free = ask(roomy, prompt_of(length), **asked).events[0]
    [other] = [t for t, _ in free.top_logprobs][1:2]
    held = ask(roomy, prompt_of(length), allowed_token_ids=(other,), **asked).events[0]
    assert held.token == other
    assert held.logprob == free.top_logprobs[1][1]
    assert held.top_logprobs == free.top_logprobs


@pytest.mark.parametrize("raises", [False, True])
def test_an_answer_that_cannot_go_on_ends_alone_and_says_why(roomy, raises):
    others = [submit(roomy, prompt_of(9), Turns(64), max_tokens=20)[1]]
    answer = submit(roomy, prompt_of(5), Ends(4, 64, raises), max_tokens=20)[1].wait()
    others.append(submit(roomy, prompt_of(9), max_tokens=20)[1])
    assert len(answer.tokens) == 4
    assert answer.finish == "error"
    assert answer.events[-1].token is None
    words = "the grammar is lost" if raises else "allow no token"
    assert words in answer.events[-1].error
    for other in others:
        assert other.wait().finish == "length"
    never = ask(roomy, prompt_of(5), allowed_token_ids=(5,), bad_words=((5,),))
    assert (never.tokens, never.finish) == ([], "error")


def test_binding_guides_alone_take_one_step_for_each_token(roomy):
    ask(roomy, prompt_of(5), max_tokens=2)  # after which no other's step is left
    before = roomy.stats().steps
    ask(roomy, prompt_of(70), guide=Turns(64), max_tokens=10)
    assert roomy.stats().steps - before == 10
