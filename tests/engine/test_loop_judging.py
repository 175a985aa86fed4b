"""Whom the judging of prompts makes wait, on a device without arrays."""

import threading
import time

import pytest

from engine.collect import ask, submit
from engine.fake_device import simple_answer
from engine.fake_engine import LONGEST
from r1jax.engine.scheduler import Scheduler
from r1jax.errors import RequestError


def test_a_prompt_alone_is_judged_and_ends_without_a_token(make_engine):
    [event] = ask(make_engine(), [4, 5, 6], max_tokens=0, prompt_logprobs=1).events
    assert (event.token, event.finish) == (None, "length")
    assert event.prompt == ((4, None, ()), (5, 0.0, ((0, 0.0),)), (6, 0.0, ((0, 0.0),)))
    whole = [7] * LONGEST
    assert ask(make_engine(), whole, max_tokens=0, prompt_logprobs=0).finish == "length"
    with pytest.raises(RequestError, match="24 tokens"):
        ask(make_engine(), whole, max_tokens=1, prompt_logprobs=0)


def test_prompts_wait_for_the_step_that_judges_them_and_nobody_else_does(
    make_engine, monkeypatch
):
    compiled, plans = threading.Event(), []
    plan = Scheduler.plan
    monkeypatch.setattr(Scheduler, "plan", lambda s: plans.append(1) or plan(s))
    engine = make_engine(judging=lambda: compiled.wait(60))
    asked = dict(max_tokens=3, prompt_logprobs=0)
    _, first = submit(engine, [1, 2], **asked)
    number, second = submit(engine, [2, 3], **asked)
    assert ask(engine, [3], max_tokens=4).tokens == simple_answer([3], 4)
    engine.cancel(number)
    assert second.wait().finish == "abort"
    before = len(plans)
    time.sleep(0.1)
    assert len(plans) - before <= 2  # the thread sleeps meanwhile
    assert first.events == []
    assert engine.stats().waiting == 1
    compiled.set()
    assert first.wait().tokens == simple_answer([1, 2], 3)
    assert len(first.events[0].prompt) == 2
    assert not any(event.prompt for event in first.events[1:])


def test_closing_ends_those_who_wait_to_be_judged(make_engine):
    compiled = threading.Event()
    engine = make_engine(judging=lambda: compiled.wait(60))
    answer = submit(engine, [1, 2], prompt_logprobs=0)[1]
    threading.Timer(0.1, compiled.set).start()
    engine.close()
    assert answer.wait().finish == "abort"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_where_that_step_cannot_be_compiled_they_are_told_and_others_served(
    make_engine,
):
    proceed = threading.Event()

    def fail():
        proceed.wait(60)
        raise RuntimeError("no room for it")

    engine = make_engine(judging=fail)
    early = submit(engine, [1, 2], prompt_logprobs=0)[1]
    proceed.set()
    engine.wait_until_compiled()
    late = submit(engine, [1, 2], prompt_logprobs=0)[1]
    for answer in (early, late):
        [event] = answer.wait().events
        assert event.finish == "error"
        assert "no room for it" in event.error
    assert ask(engine, [3], max_tokens=4).tokens == simple_answer([3], 4)
