"""Guessing ahead changes how fast an answer comes, never the answer."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engine.collect import ask, submit
from engine.fake_device import VOCABULARY, FakeDevice, next_token, simple_answer
from r1jax.engine import drafts, loop
from r1jax.engine.drafts import Lookup, accepted, may_draft
from r1jax.engine.loop import Engine
from r1jax.engine.pages import Pages
from r1jax.engine.sampling import RowSampling, choose, draw
from r1jax.engine.types import EngineOptions, SamplingParams
from r1jax.errors import ConfigError
from r1jax.presets import preset
from r1jax.target import CPU

PAGE, LONGEST = 2, 24
CONFIG = dataclasses.replace(preset("tiny-qwen2"), vocab_size=VOCABULARY, eos_ids=())


class HalfRight:
    """Guesses the fake model's own tokens, but for every `wrong`-th guess."""

    def __init__(self, count, wrong):
        self.count, self.wrong = count, wrong
        self.turn = itertools.count(1)
        self.known = set()

    def guess(self, sequence, device):
        assert device is None
        self.known.add(sequence.id)
        context = list(sequence.tokens)
        for _ in range(self.count):
            right = next_token(tuple(context))
            off = next(self.turn) % self.wrong == 0
            context.append((right + off) % VOCABULARY)
        return context[len(sequence.tokens) :]

    def forget(self, sequence):
        self.known.discard(sequence.id)


class FakeRunner:
    """Runs a step at once, and notes its plan."""

    def __init__(self, config, params, pools, slots, columns, target, tell, guesses):
        _, pages, _, size, _ = pools["key"].shape
        self.device = FakeDevice([Pages(pages, size)], slots)
        self.plans = []
        assert guesses == 0

    def compile(self, geometry, scores=False):
        pass

    def warm(self, geometry, scores=False):
        pass

    def dispatch(self, plan, seeds):
        self.plans.append(plan)
        return {"token": self.device.run(plan)}


@pytest.fixture
def make_engine(monkeypatch):
    """Makes engines that guess with a `HalfRight`, on a device without arrays."""
    engines = []

    def make(*, wrong=3, count=3, pages=40, slots=2, eos=()):
        drafter = HalfRight(count, wrong)
        monkeypatch.setattr(loop, "Runner", FakeRunner)
        monkeypatch.setattr(loop, "make_drafter", lambda options: drafter)
        pools = {"key": jnp.zeros((1, pages + 1, 1, PAGE, 1))}
        options = EngineOptions(
            LONGEST, slots, 8, PAGE, draft="ngram", num_draft_tokens=count
        )
        config = dataclasses.replace(CONFIG, eos_ids=eos)
        engine = Engine(config, None, pools, options, target=CPU)
        engines.append(engine)
        return engine, drafter

    yield make
    for engine in engines:
        engine.close()


@pytest.mark.parametrize("wrong", [1, 2, 3, 7, 10**9])
def test_an_answer_is_the_same_however_many_guesses_are_right(make_engine, wrong):
    engine, _ = make_engine(wrong=wrong)
    for length in (1, 2, 5, 8, 11):
        prompt = list(range(length))
        answer = ask(engine, prompt, max_tokens=12)
        assert answer.tokens == simple_answer(prompt, 12)
        assert [e.finish for e in answer.events] == [None] * 11 + ["length"]
    stats = engine.stats()
    assert stats.generation_tokens == 60
    assert 0 < stats.drafts <= stats.drafted <= 3 * stats.drafts
    assert (stats.accepted == 0) == (wrong == 1)
    assert (stats.accepted == stats.drafted) == (wrong == 10**9)


def test_right_guesses_save_steps_and_wrong_ones_cost_none(make_engine):
    for wrong, steps in ((10**9, 1 + 3), (1, 13)):
        engine, _ = make_engine(wrong=wrong)
        ask(engine, [1, 2, 3], max_tokens=13)  # 1 of the prompt's step, 3 of 4 each
        assert engine.stats().steps == steps


def test_a_crowd_on_few_pages_is_put_back_and_loses_nothing(make_engine):
    engine, _ = make_engine(slots=3, pages=12)
    prompts = [[i, i + 1, i + 2] for i in range(20)]
    answers = [submit(engine, p, max_tokens=5 + p[0] % 13)[1] for p in prompts]
    for prompt, answer in zip(prompts, answers, strict=True):
        wanted = simple_answer(prompt, 5 + prompt[0] % 13)
        assert answer.wait().tokens == wanted
    assert engine.stats().preemptions > 0
    assert engine.stats().accepted > 0
    assert engine.stats().pages_used == 0


def test_guesses_do_not_take_pages_from_others(make_engine):
    """Twelve pages just hold what both come to."""
    for wrong in (1, 10**9):
        engine, _ = make_engine(slots=2, pages=12, wrong=wrong)
        answers = [submit(engine, [i], max_tokens=11)[1] for i in range(2)]
        for i, answer in enumerate(answers):
            assert answer.wait().tokens == simple_answer([i], 11)
        assert engine.stats().preemptions == 0


def test_tokens_behind_an_end_token_are_dropped(make_engine):
    whole = simple_answer([4, 4], 12)
    end = next(i for i in range(2, 12) if whole.index(whole[i]) == i and i % 4)
    engine, _ = make_engine(wrong=10**9, eos=(whole[end],))
    answer = ask(engine, [4, 4], max_tokens=12)
    assert answer.tokens == whole[: end + 1]
    assert answer.finish == "stop"
    assert engine.stats().generation_tokens == end + 1
    again = ask(engine, [4, 4], max_tokens=12, ignore_eos=True)
    assert again.tokens == whole


@pytest.mark.parametrize("most", range(1, 10))
def test_no_token_is_computed_beyond_the_limit(make_engine, most):
    engine, _ = make_engine(wrong=10**9)
    answer = ask(engine, [3, 1, 4], max_tokens=most)
    assert answer.tokens == simple_answer([3, 1, 4], most)
    assert answer.finish == "length"
    rows = [row for p in engine._runner.plans for _, _, row in p.placed()]
    assert max(row.start + row.count for row in rows) <= 3 + most - 1


def test_the_context_is_filled_to_its_end_and_no_further(make_engine):
    engine, _ = make_engine(wrong=10**9)
    prompt = list(range(10))
    answer = ask(engine, prompt)
    assert answer.tokens == simple_answer(prompt, LONGEST - 10)
    rows = [row for p in engine._runner.plans for _, _, row in p.placed()]
    assert max(row.start + row.count for row in rows) == LONGEST - 1


def test_what_ends_is_forgotten_and_its_pages_serve_others(make_engine):
    engine, drafter = make_engine(slots=2, pages=24)
    for turn in range(5):
        number, answer = submit(engine, [turn], max_tokens=20)
        answer.wait(events=2)
        engine.cancel(number)
        answer.wait()
        assert answer.tokens == simple_answer([turn], 20)[: len(answer.tokens)]
        assert ask(engine, [9], max_tokens=20).tokens == simple_answer([9], 20)
    assert drafter.known == set()


def test_rows_with_penalties_or_rules_go_on_one_by_one(make_engine):
    engine, _ = make_engine(wrong=10**9)
    ask(engine, [1], max_tokens=6, frequency_penalty=0.5)
    ask(engine, [1], max_tokens=6, allowed_token_ids=tuple(range(VOCABULARY)))
    ask(engine, [1], max_tokens=6, bad_words=((1, 2),))
    assert engine.stats().drafted == 0
    steady = [p.geometry for p in engine._runner.plans if not p.geometry.chunks]
    assert {g.decode_tokens for g in steady} == {1}
    plain = dict(temperature=1.0, top_p=0.9, seed=1, logprobs=3)
    assert may_draft(SamplingParams(**plain), 0)
    for rule in (
        dict(presence_penalty=0.1),
        dict(frequency_penalty=-0.1),
        dict(repetition_penalty=1.1),
        dict(logit_bias=((3, 1.0),)),
        dict(min_tokens=5),
    ):
        assert not may_draft(SamplingParams(**rule), 4), rule
    assert may_draft(SamplingParams(min_tokens=5), 5)


def test_guesses_are_right_up_to_the_first_wrong_one():
    assert accepted([], [7]) == 0
    assert accepted([1, 2, 3], [1, 2, 3, 4]) == 3
    assert accepted([1, 2, 3], [1, 5, 3, 4]) == 1
    assert accepted([9, 2], [1, 2, 3]) == 0


def scanned(tokens, count, shortest, longest):
    """What `Lookup` must say, by looking at every place each time."""
    for length in range(longest, shortest - 1, -1):
        end = tokens[-length:]
        for at in range(len(tokens) - 1, length - 1, -1):
            if len(end) == length and tokens[at - length : at] == end:
                behind = tokens[at:] * count
                return behind[:count]
    return []


@pytest.mark.parametrize(("shortest", "longest"), [(1, 1), (1, 3), (2, 4), (3, 3)])
def test_a_lookup_finds_the_latest_longest_run(rng, shortest, longest):
    tokens, lookup, found = [], Lookup(shortest, longest), 0
    for size in rng.integers(1, 5, 100):
        tokens += rng.integers(0, 4, size).tolist()
        wanted = scanned(tokens, 5, shortest, longest)
        assert lookup.continuation(tokens, 5) == wanted
        found += bool(wanted)
    assert found > 50


def test_a_lookup_of_many_tokens_looks_at_each_once():
    """32 K tokens, one at a time: with a scan of all for each this takes minutes."""

    class Counting(list):
        reads = 0

        def __getitem__(self, key):
            Counting.reads += 1
            return super().__getitem__(key)

    tokens, lookup = Counting(range(1000)), Lookup(2, 4)
    for i in range(1000, 3000):
        tokens.append(i)
        assert lookup.continuation(tokens, 4) == []
    assert Counting.reads <= 3 * 3000 + 3 * 2000


def test_the_distribution_is_the_models_whatever_is_guessed(rng):
    """Pairs of tokens of a toy that knows the one before, 8,000 seeds, one guess.

    Speculative sampling's claim (arXiv 2211.17192): pairs come as often as the product
    of the toy's probabilities says, under guesses that are likely, unlikely, or drawn.
    """
    runs, words = 8000, 5
    table = rng.normal(0, 1, (words, words)).astype(np.float32)
    p = np.exp(table) / np.exp(table).sum(1, keepdims=True)
    wanted = (p[2][:, None] * p) * runs  # the token before is 2
    bits = jnp.asarray(rng.integers(0, 2**32, (runs, 2), dtype=np.uint32))
    zeros, ones = jnp.zeros(runs), jnp.ones(runs)
    rows = RowSampling(ones, ones, zeros, zeros, zeros, ones, zeros.astype(int), bits)
    pick = jax.jit(choose)

    def sample(before, position):
        uniform = draw(rows.seed, jnp.full(runs, position))
        return np.asarray(pick(jnp.asarray(table)[before], rows, uniform))

    likely, unlikely = np.argmax(p[2]), np.argmin(p[2])
    for guess in (
        np.full(runs, likely),
        np.full(runs, unlikely),
        rng.integers(0, words, runs),
    ):
        first = sample(np.full(runs, 2), 1)
        verified = sample(guess, 2)  # in the step of the guess
        right = np.array(
            [accepted([g], [f]) for g, f in zip(guess, first, strict=True)]
        )
        second = np.where(right, verified, sample(first, 2))  # or in the one after
        assert 0 < right.mean() < 1
        assert right.mean() == pytest.approx(p[2][guess].mean(), abs=0.02)
        found = np.zeros((words, words))
        np.add.at(found, (first, second), 1)
        square = ((found - wanted) ** 2 / wanted).sum()
        assert square < 52.6  # of 24 degrees of freedom, 1 in 1,500


def test_a_model_without_the_layer_cannot_guess_with_it():
    with pytest.raises(ConfigError, match="draft is 'mtp' for a model without"):
        drafts.check_drafts(CONFIG, "mtp")
    drafts.check_drafts(CONFIG, "ngram")
    drafts.check_drafts(preset("r1"), "mtp")
