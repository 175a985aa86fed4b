"""The engine on real arrays: whatever else runs, its tokens are the plain loop's."""

import dataclasses
import itertools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engine.collect import ask, submit
from engine.toy_engine import CONFIG, LONGEST, REQUESTS, plain, prompt_of
from r1jax import cache
from r1jax.engine import simple
from r1jax.engine.loop import Engine
from r1jax.engine.runner import Runner
from r1jax.engine.types import EngineOptions, SamplingParams
from r1jax.target import PLAIN


def test_a_crowd_gets_the_tokens_of_the_plain_loop(engine, plain_answers):
    before = engine.stats()
    answers = [
        submit(engine, prompt_of(length), **{"max_tokens": 40, **sampling})[1]
        for length, sampling in REQUESTS
    ]
    for i, (answer, wanted) in enumerate(zip(answers, plain_answers, strict=True)):
        assert answer.wait().tokens == wanted, REQUESTS[i]
        assert [bool(e.finish) for e in answer.events] == [False] * (
            len(wanted) - 1
        ) + [True]
    after = engine.stats()
    if engine.options.max_num_seqs == 3:
        assert after.preemptions > before.preemptions
    if engine.options.draft:
        accepted, drafts = (
            getattr(after, name) - getattr(before, name)
            for name in ("accepted", "drafts")
        )
        assert accepted > 100
        assert after.preemptions > before.preemptions or engine.options.page_size > 4
        assert drafts > accepted / 3
    tokens = after.generation_tokens - before.generation_tokens
    assert tokens == sum(len(wanted) for wanted in plain_answers)


def test_steps_of_padding_in_between_change_no_token(engine, plain_answers):
    forms = list(engine._runner._compiled)
    answers = [
        submit(engine, prompt_of(length), **{"max_tokens": 40, **sampling})[1]
        for length, sampling in REQUESTS
    ]
    for form in itertools.cycle(forms):
        engine._runner.warm(*form)
        if all(answer.events and answer.finish for answer in answers):
            break
    for answer, wanted in zip(answers, plain_answers, strict=True):
        assert answer.wait().tokens == wanted


def test_a_seed_gives_the_same_tokens_alone_as_in_a_crowd(engine, plain_answers):
    for i in (2, 4, 6):
        length, sampling = REQUESTS[i]
        answer = ask(engine, prompt_of(length), **{"max_tokens": 40, **sampling})
        assert answer.tokens == plain_answers[i]


# Samplings of requests whose prompts begin alike.
ALIKE = [
    dict(temperature=0.0),
    dict(temperature=0.0, repetition_penalty=1.3),
    dict(temperature=0.9, presence_penalty=0.8, frequency_penalty=0.4, seed=6),
    dict(temperature=1.2, repetition_penalty=0.8, seed=7),
    dict(temperature=0.0, frequency_penalty=0.9),
    dict(temperature=1.0, top_p=1.0, seed=8),
]


@pytest.fixture(scope="module")
def alike(params):
    """Prompts of 64 equal tokens and a few others, and the plain loop's answers."""
    prompts = [prompt_of(64) + prompt_of(i)[: 3 * i] for i in range(len(ALIKE))]
    return prompts, [
        plain(params, prompt, **{"max_tokens": 30, **sampling})
        for prompt, sampling in zip(prompts, ALIKE, strict=True)
    ]


def test_what_is_found_in_the_cache_changes_no_token(engine, alike):
    """Nor what penalties count, nor after preemption."""
    prompts, plain = alike
    before = engine.stats()
    for _ in range(2):
        answers = [
            submit(engine, prompt, **{"max_tokens": 30, **sampling})[1]
            for prompt, sampling in zip(prompts, ALIKE, strict=True)
        ]
        for answer, wanted in zip(answers, plain, strict=True):
            assert answer.wait().tokens == wanted
            assert {event.cached_tokens for event in answer.events[1:]} == {0}
    after, size = engine.stats(), engine.options.page_size
    cached = [answer.events[0].cached_tokens for answer in answers]
    if engine.options.max_num_seqs == 2:  # there are pages for all
        assert min(cached) >= 64 - size
    asked = 2 * sum(map(len, prompts))
    assert after.prefix_queries - before.prefix_queries == asked
    assert sum(cached) <= after.prefix_hits - before.prefix_hits < asked
    assert after.pages_used == 0
    engine._scheduler.audit()


def test_cancels_at_any_moment_leave_no_page_held(engine, alike):
    prompts, plain = alike
    random = np.random.default_rng(3)
    for _ in range(6):
        started = [submit(engine, prompt, temperature=0.0) for prompt in prompts]
        for number, answer in started:
            answer.wait(events=int(random.integers(0, 5)))
            engine.cancel(number)
        for _, answer in started:
            answer.wait()
    answer = ask(engine, prompts[0], **{"max_tokens": 30, **ALIKE[0]})
    assert answer.tokens == plain[0]
    assert engine.stats().pages_used == 0
    engine._scheduler.audit()


def test_the_end_of_the_context_is_reached_and_no_further(engine, params):
    prompt = prompt_of(LONGEST - 7)
    answer = ask(engine, prompt)
    wanted = simple.generate(
        CONFIG, params, prompt, SamplingParams(temperature=0), max_model_len=LONGEST
    )
    assert len(wanted) == 7
    assert answer.tokens == wanted
    assert answer.finish == "length"


def test_logprobs_are_the_log_softmax_of_the_models_logits(engine, params):
    """Of the model's own distribution, whatever the sampling does to it."""
    prompt = prompt_of(20)
    sampling = dict(temperature=1.3, top_k=3, repetition_penalty=1.2, seed=1)
    answer = ask(engine, prompt, max_tokens=12, logprobs=5, **sampling)
    padded = simple.padded(prompt + answer.tokens)
    logits = np.asarray(simple.whole_logits(CONFIG)(params, padded), np.float64)
    exact = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    for at, event in enumerate(answer.events, len(prompt) - 1):
        assert event.logprob == pytest.approx(exact[at, event.token], abs=1e-4)
        best = np.argsort(-exact[at])[:5]
        assert [token for token, _ in event.top_logprobs] == best.tolist()
        values = [value for _, value in event.top_logprobs]
        assert values == pytest.approx(exact[at, best].tolist(), abs=1e-4)


def test_logprobs_come_only_where_they_were_asked_for(roomy):
    bare, none, one = (
        submit(roomy, [1, 2], max_tokens=3, logprobs=n)[1] for n in (None, 0, 1)
    )
    for answer in (bare, none, one):
        answer.wait()
    assert {event.logprob for event in bare.events} == {None}
    assert {event.top_logprobs for event in (*bare.events, *none.events)} == {()}
    for event, other in zip(none.events, one.events, strict=True):
        assert event.logprob == pytest.approx(other.logprob, abs=1e-5)
        assert other.top_logprobs == ((event.token, other.logprob),)


def test_pages_of_a_cancelled_request_serve_the_next_one(tight, plain_answers):
    """The next one finds another's entries in its pages, and must not see them."""
    for _ in range(3):
        number, answer = submit(tight, prompt_of(100), temperature=2.0)
        answer.wait(events=3)
        tight.cancel(number)
        answer.wait()
        length, sampling = REQUESTS[5]
        again = ask(tight, prompt_of(length), **{"max_tokens": 40, **sampling})
        assert again.tokens == plain_answers[5]


def test_penalties_begin_anew_for_each_request(roomy, plain_answers):
    length, sampling = REQUESTS[9]
    for _ in range(5):  # more than there are slots
        again = ask(roomy, prompt_of(length), **{"max_tokens": 40, **sampling})
        assert again.tokens == plain_answers[9]


def test_nothing_is_compiled_while_serving(roomy, caplog, monkeypatch):
    def no_more(self, geometry, scores=False):
        raise AssertionError(f"{geometry} is compiled on a request's path")

    monkeypatch.setattr(Runner, "compile", no_more)
    caplog.set_level(logging.WARNING)
    jax.config.update("jax_log_compiles", True)
    try:
        rules = dict(allowed_token_ids=(1, 2), logit_bias=((3, 1.0),))
        answers = [
            submit(
                roomy,
                prompt_of(n),
                max_tokens=5,
                frequency_penalty=n % 2,
                logprobs=2,
                prompt_logprobs=None if n % 3 else n % 4,
                **(rules if n > 50 else {}),
            )[1]
            for n in (1, 30, 70, 128, 40, 64)
        ]
        for answer in answers:
            assert answer.wait().finish == "length"
        served = len(caplog.records)
        jax.jit(lambda x: x + 17)(1.0)  # so that the log is known to work
    finally:
        jax.config.update("jax_log_compiles", False)
    assert [r.getMessage() for r in caplog.records[:served]] == []
    assert len(caplog.records) > served


def test_every_transfer_of_a_step_is_on_purpose(roomy):
    jax.config.update("jax_transfer_guard", "disallow")
    try:
        with pytest.raises(Exception, match="Disallowed"):
            jnp.sin(np.ones(3, np.float32)).block_until_ready()
        asked = dict(logprobs=2, prompt_logprobs=2, presence_penalty=1)
        rules = dict(logit_bias=((3, 1.0),), allowed_token_ids=(1, 2))
        answer = ask(roomy, prompt_of(70), max_tokens=5, **asked, **rules)
    finally:
        jax.config.update("jax_transfer_guard", "allow")
    assert answer.finish == "length"


def test_a_prompt_takes_one_step_and_each_further_token_another(roomy):
    before = roomy.stats().steps
    ask(roomy, prompt_of(70), max_tokens=10)
    assert roomy.stats().steps - before == 10


@pytest.mark.slow
def test_one_slot_and_one_token_at_a_time_still_work(params):
    options = EngineOptions(12, max_num_seqs=1, max_num_batched_tokens=1, page_size=1)
    pools = cache.make_pools(CONFIG, 13, 1, jnp.float32)
    engine = Engine(
        CONFIG, params, pools, options, target=PLAIN
    )  # and layers in one stack
    answers = [submit(engine, prompt_of(5))[1] for _ in range(2)]
    wanted = simple.generate(
        CONFIG, params, prompt_of(5), SamplingParams(temperature=0), max_model_len=12
    )
    for answer in answers:
        assert answer.wait().tokens == wanted
    engine.close()


def test_end_tokens_of_the_model_stop_it(params):
    """The model's own end tokens come from its config."""
    prompt, sampling = prompt_of(9), SamplingParams(temperature=0, max_tokens=11)
    free = simple.generate(CONFIG, params, prompt, sampling, max_model_len=12)
    config = dataclasses.replace(CONFIG, eos_ids=(free[1],))
    stopped = simple.generate(config, params, prompt, sampling, max_model_len=12)
    assert stopped == free[: free.index(free[1]) + 1]
