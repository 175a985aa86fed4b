"""The engine's promises to its callers, on a device without arrays."""

import dataclasses
import threading
import time
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from engine.collect import Answer, ask, submit
from engine.fake_device import VOCABULARY, FakeDevice, simple_answer
from r1jax.engine import loop
from r1jax.engine.loop import Engine
from r1jax.engine.pages import Pages
from r1jax.engine.scheduler import Scheduler
from r1jax.engine.steps import PROMPT_LOGPROBS
from r1jax.engine.types import EngineOptions, SamplingParams
from r1jax.errors import ConfigError, RequestError
from r1jax.presets import preset
from r1jax.target import CPU

PAGE, LONGEST = 2, 24
CONFIG = dataclasses.replace(preset("tiny-qwen2"), vocab_size=VOCABULARY, eos_ids=())


class Permits(threading.Semaphore):
    """Lets so many steps run; `held` is set once a step has to wait."""

    def __init__(self):
        super().__init__(0)
        self.held = threading.Event()

    def take(self):
        if not self.acquire(blocking=False):
            self.held.set()
            self.acquire()


class FakeRunner:
    """Runs a step when `permits` allows; breaks when `broken` is set."""

    permits: Permits | None = None
    broken: Exception | None = None
    judging: Any = None  # waited for when the step that judges prompts is compiled

    def __init__(self, config, params, pools, slots, columns, target, tell, guesses):
        _, pages, _, size, _ = pools["key"].shape
        self.device = FakeDevice([Pages(pages, size)], slots)

    def compile(self, geometry, scores=False):
        if scores and self.judging:
            self.judging()

    def dispatch(self, plan, seeds):
        if self.permits:
            self.permits.take()
        if self.broken:
            raise self.broken
        assert {row.sequence.id for _, _, row in plan.placed()} <= set(seeds)
        tokens = plan.geometry.tokens
        judged = np.zeros(tokens), np.zeros((tokens, 2)), np.zeros((tokens, 2))
        scores = dict(zip(PROMPT_LOGPROBS, judged, strict=True)) if plan.scores else {}
        return {"token": self.device.run(plan), **scores}


@pytest.fixture
def make_engine(monkeypatch):
    """Makes engines whose steps can be held (`paused`); closes them at the end."""
    engines = []

    def make(
        *,
        paused=False,
        broken=None,
        judging=None,
        pages=12,
        slots=2,
        eos=(),
        hosts=None,
        **options,
    ):
        class Runner(FakeRunner):
            permits = Permits() if paused else None

        Runner.broken = broken
        Runner.judging = staticmethod(judging) if judging else None
        monkeypatch.setattr(loop, "Runner", Runner)
        pools = {"key": jnp.zeros((1, pages + 1, 1, PAGE, 1))}
        limits = EngineOptions(LONGEST, slots, 8, PAGE, **options)
        config = dataclasses.replace(CONFIG, eos_ids=eos)
        engine = Engine(config, None, pools, limits, target=CPU, hosts=hosts)
        engines.append((engine, Runner))
        return (engine, Runner.permits) if paused else engine

    yield make
    for engine, runner in engines:
        if runner.permits:
            runner.permits.release(10**6)
        engine.close()


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


class FakeHosts:
    """Process 0's view of another, which is lost when the test says so."""

    leads, loss = True, None

    def __init__(self):
        self.sent = []

    def send(self, data):
        self.sent.append(data)

    def ready(self):
        pass

    def watch(self, on_loss):
        self.on_loss = on_loss

    def wait_for_loss(self, seconds):
        return self.loss

    def lose(self, reason):
        self.loss = reason
        self.on_loss(reason)


def engine_of_many(make_engine, **how):
    hosts = FakeHosts()
    return hosts, make_engine(hosts=hosts, **how)


def test_a_lost_host_ends_requests_while_a_step_hangs(make_engine):
    hosts, (engine, permits) = engine_of_many(make_engine, paused=True)
    answers = [submit(engine, [i])[1] for i in range(4)]
    assert permits.held.wait(10)
    hosts.lose("process 1 has ended")
    hosts.lose("process 2 has ended")
    for answer in answers:
        [event] = answer.wait().events
        assert (event.finish, event.error) == ("error", "process 1 has ended")
    with pytest.raises(RequestError, match="process 1 has ended"):
        submit(engine, [1])
    engine.close()  # does not wait for the step


def test_closing_ends_though_a_step_hangs_on_a_host_lost_meanwhile(make_engine):
    hosts, (engine, permits) = engine_of_many(make_engine, paused=True)
    submit(engine, [1])
    assert permits.held.wait(10)
    closing = threading.Thread(target=engine.close)
    closing.start()
    closing.join(0.1)
    assert closing.is_alive()
    hosts.lose("process 1 has ended")
    closing.join(10)
    assert not closing.is_alive()


def test_a_lost_host_is_noticed_while_nothing_runs(make_engine):
    hosts, engine = engine_of_many(make_engine)
    hosts.lose("process 1 has ended")
    assert engine.failure == "process 1 has ended"
    engine.wait_until_closed()


def test_a_step_that_fails_with_a_host_is_blamed_on_it(make_engine):
    broken = RuntimeError("Gloo all-reduce failed")
    hosts, (engine, permits) = engine_of_many(make_engine, paused=True, broken=broken)
    hosts.loss = "process 1 has ended"
    answer = submit(engine, [1])[1]
    permits.release()
    assert answer.wait().events[0].error == "process 1 has ended"


def test_the_engines_of_other_processes_take_no_requests(make_engine):
    class Follower(FakeHosts):
        leads, index = False, 1

        def receive(self):
            return None

    engine = make_engine(hosts=Follower())
    with pytest.raises(RequestError, match="ask process 0"):
        submit(engine, [1])
    engine.wait_until_closed()


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
