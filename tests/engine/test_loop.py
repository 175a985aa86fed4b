"""The engine's promises to its callers, on a device without arrays."""

import threading

import jax.numpy as jnp
import pytest

from engine.collect import Answer, ask, submit
from engine.fake_device import VOCABULARY, simple_answer
from engine.fake_engine import CONFIG, LONGEST, PAGE, FakeRunner
from r1jax.engine import loop
from r1jax.engine.loop import Engine
from r1jax.engine.types import EngineOptions, SamplingParams
from r1jax.errors import ConfigError, RequestError
from r1jax.target import CPU


def test_an_answer_is_its_tokens_in_order_and_one_finish(make_engine):
    engine = make_engine()
    number, answer = submit(engine, [1, 2, 3], max_tokens=9)
    answer.wait()
    assert answer.tokens == simple_answer([1, 2, 3], 9)
    assert [event.finish for event in answer.events] == [None] * 8 + ["length"]
    assert {event.request_id for event in answer.events} == {number}
    assert {event.error for event in answer.events} == {None}
    assert answer.threads == {"engine_run"}


def test_many_requests_on_few_pages_lose_nothing(make_engine):
    engine = make_engine(slots=3)
    prompts = [[i, i + 1, i + 2] for i in range(20)]
    answers = [submit(engine, p, max_tokens=5 + p[0] % 13)[1] for p in prompts]
    for prompt, answer in zip(prompts, answers, strict=True):
        wanted = simple_answer(prompt, 5 + prompt[0] % 13)
        assert answer.wait().tokens == wanted
        assert [bool(e.finish) for e in answer.events] == [False] * (
            len(wanted) - 1
        ) + [True]
    stats = engine.stats()
    assert stats.preemptions > 0
    assert stats.finished == {"length": 20}
    assert stats.prompt_tokens == 60
    assert stats.generation_tokens == sum(len(a.tokens) for a in answers)
    assert stats.pages_total == 12


@pytest.mark.parametrize(("caching", "found"), [(True, 6), (False, 0)])
def test_what_was_found_comes_with_the_first_event(make_engine, caching, found):
    engine = make_engine(prefix_caching=caching)
    ask(engine, [1, 2, 3, 4, 5, 6, 7], max_tokens=2)
    second = ask(engine, [1, 2, 3, 4, 5, 6, 8], max_tokens=3)
    assert [event.cached_tokens for event in second.events] == [found, 0, 0]
    assert second.tokens == simple_answer([1, 2, 3, 4, 5, 6, 8], 3)
    stats = engine.stats()
    assert (stats.prefix_queries, stats.prefix_hits) == (14 if caching else 0, found)
    assert stats.pages_used == 0


def test_every_program_has_run_once_when_all_is_compiled(make_engine):
    engine = make_engine()
    engine.wait_until_compiled()
    runner, shapes = engine._runner, engine._shapes
    assert runner.warmed == runner.compiled
    plain = {shape for shape, scores in runner.warmed if not scores}
    assert plain == {*shapes.first, *shapes.rest}
    assert {shape for shape, scores in runner.warmed if scores} == {*shapes.judging}


def test_submitting_is_safe_from_many_threads(make_engine):
    engine = make_engine(slots=4, pages=40)
    answers: dict[int, tuple[int, Answer]] = {}

    def client(first):
        for token in range(first, first + 8):
            number, answer = submit(engine, [token], max_tokens=6)
            answers[number] = token, answer

    threads = [threading.Thread(target=client, args=(8 * i,)) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 40
    for number, (token, answer) in answers.items():
        assert answer.wait().tokens == simple_answer([token], 6)
        assert {event.request_id for event in answer.events} == {number}


def test_an_end_token_is_delivered_as_the_last(make_engine):
    wanted = simple_answer([4], 10)
    end = wanted[5]
    upto = wanted[: wanted.index(end) + 1]
    for answer in (
        ask(make_engine(eos=(end,)), [4], max_tokens=10),
        ask(make_engine(), [4], max_tokens=10, stop_token_ids=(end,)),
        ask(make_engine(eos=(end,)), [4], ignore_eos=True, stop_token_ids=(end,)),
    ):
        assert answer.tokens == upto
        assert answer.finish == "stop"
    ignored = ask(make_engine(eos=(end,)), [4], max_tokens=10, ignore_eos=True)
    assert ignored.tokens == wanted
    assert ignored.finish == "length"


def test_an_end_token_at_the_limit_is_a_stop(make_engine):
    wanted = simple_answer([4], 3)
    answer = ask(make_engine(eos=(wanted[-1],)), [4], max_tokens=3)
    assert answer.finish == "stop"


@pytest.mark.parametrize("prompt", [1, LONGEST - 1])
def test_the_end_of_the_context_is_a_length(make_engine, prompt):
    answer = ask(make_engine(), [7] * prompt)
    assert answer.tokens == simple_answer([7] * prompt, LONGEST - prompt)
    assert answer.finish == "length"


def test_cancelling_ends_a_running_request_and_frees_its_pages(make_engine):
    engine, permits = make_engine(paused=True)
    number, answer = submit(engine, [1])
    permits.release(4)
    answer.wait(events=3)
    engine.cancel(number)
    permits.release(10**6)
    answer.wait()
    assert answer.finish == "abort"
    assert answer.events[-1].token is None
    assert answer.tokens == simple_answer([1], len(answer.tokens))
    assert ask(engine, [2], max_tokens=3).finish == "length"
    assert engine.stats().finished == {"abort": 1, "length": 1}
    assert engine.stats().pages_used == 0


def test_cancelling_ends_a_waiting_request_before_its_first_token(make_engine):
    engine, permits = make_engine(paused=True, slots=1)
    _, first = submit(engine, [1], max_tokens=4)
    number, second = submit(engine, [2])
    permits.release(2)
    first.wait(events=1)
    engine.cancel(number)
    permits.release(10**6)
    assert second.wait().tokens == []
    assert second.finish == "abort"
    assert first.wait().tokens == simple_answer([1], 4)


def test_cancelling_at_once_again_or_too_late_is_harmless(make_engine):
    engine = make_engine()
    number, answer = submit(engine, [1])
    engine.cancel(number)
    engine.cancel(number)
    answer.wait()
    engine.cancel(number)
    engine.cancel(10**9)
    done, other = submit(engine, [2], max_tokens=2)
    other.wait()
    engine.cancel(done)
    assert ask(engine, [3], max_tokens=2).finish == "length"
    assert [event.finish for event in answer.events].count("abort") == 1
    assert other.events[-1].finish == "length"


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ([], "empty"),
        ([1, VOCABULARY], "token id 50"),
        ([-1], "token id -1"),
        ([1] * LONGEST, "24 tokens"),
    ],
    ids=["empty", "unknown", "negative", "long"],
)
def test_a_prompt_that_cannot_be_served_is_refused(make_engine, prompt, words):
    engine = make_engine()
    with pytest.raises(RequestError, match=words):
        engine.submit(prompt, SamplingParams(), Answer())
    assert ask(engine, [1] * (LONGEST - 1)).finish == "length"


def test_a_cache_smaller_than_one_request_is_refused(make_engine):
    make_engine(pages=LONGEST // PAGE)
    with pytest.raises(ConfigError, match="11 pages of 2 tokens"):
        make_engine(pages=LONGEST // PAGE - 1)


def test_closing_aborts_everyone_and_refuses_more(make_engine):
    """Whoever runs, waits, or came during the last step, which is waited for."""
    engine, permits = make_engine(paused=True)
    answers = [submit(engine, [i])[1] for i in range(4)]
    permits.release(3)
    answers[0].wait(events=1)
    assert permits.held.wait(60)
    answers.append(submit(engine, [4])[1])
    threading.Timer(0.2, permits.release, [10**6]).start()
    engine.close()
    for answer in answers:
        assert [event.finish for event in answer.events if event.finish] == ["abort"]
        assert answer.finish == "abort"
    assert answers[0].tokens == simple_answer([0], len(answers[0].tokens))
    with pytest.raises(RequestError, match="shutting down"):
        submit(engine, [1])
    engine.close()
    engine.cancel(1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("kind", [RuntimeError, MemoryError, ImportError])
def test_a_failing_step_tells_everyone_and_refuses_more(make_engine, kind):
    engine, permits = make_engine(paused=True, broken=kind("the device fell off"))
    answers = [submit(engine, [i])[1] for i in range(4)]
    permits.release(10)
    for answer in answers:
        answer.wait()
        assert [event.finish for event in answer.events] == ["error"]
        assert "the device fell off" in answer.events[0].error
    with pytest.raises(RequestError, match="the device fell off"):
        submit(engine, [1])


def test_requests_without_a_seed_repeat_where_the_engine_has_one(monkeypatch):
    drawn = []

    class Runner(FakeRunner):
        def dispatch(self, plan, seeds):
            drawn[-1] |= seeds
            return super().dispatch(plan, seeds)

    monkeypatch.setattr(loop, "Runner", Runner)
    for seed in (3, 3, 4, None):
        drawn.append({})
        pools = {"key": jnp.zeros((1, 20, 1, PAGE, 1))}
        engine = Engine(
            CONFIG, None, pools, EngineOptions(8, 2, 8, PAGE), target=CPU, seed=seed
        )
        for own in (None, 11, None):
            ask(engine, [1], max_tokens=1, seed=own)
        engine.close()
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[3] != drawn[0]
    assert {seeds[2] for seeds in drawn} == {11}


class Following:
    """Allows all, and notes what it is told; binds if it is told to."""

    def __init__(self, binds):
        self.binds, self.said = binds, []

    def mask(self):
        raise AssertionError("masks are asked for on the way to the device alone")

    def advance(self, token):
        self.said.append(token)


@pytest.mark.parametrize("binds", [True, False])
def test_a_guide_follows_its_answer_whatever_happens_to_its_pages(make_engine, binds):
    engine = make_engine(slots=3)
    guides = [Following(binds) for _ in range(9)]
    answers = [
        submit(engine, [i, i + 1], guide, max_tokens=14)[1]
        for i, guide in enumerate(guides)
    ]
    for i, (guide, answer) in enumerate(zip(guides, answers, strict=True)):
        wanted = simple_answer([i, i + 1], 14)
        assert answer.wait().tokens == wanted
        assert guide.said == wanted[:-1]
    assert engine.stats().preemptions > 0
