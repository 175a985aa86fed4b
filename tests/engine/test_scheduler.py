"""The scheduler against a device whose tokens are right only if every page is."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from engine.fake_device import VOCABULARY, FakeDevice, simple_answer
from r1jax.cache import Geometry
from r1jax.engine.guides import BadWords, Rules
from r1jax.engine.pages import Pages
from r1jax.engine.scheduler import Scheduler, Sequence, Shapes
from r1jax.engine.types import SamplingParams

GREEDY = SamplingParams(temperature=0.0)
FREE = Rules(VOCABULARY)
BINDING = Rules(VOCABULARY, BadWords([(1, 2)], VOCABULARY))


class Serving(RuleBasedStateMachine):
    """Plans one step ahead of the tokens it reads, as the engine does."""

    @initialize(
        shards=st.sampled_from([1, 1, 2, 3]),
        devices=st.sampled_from([1, 1, 2, 3]),
        slots=st.integers(1, 4),
        chunk=st.sampled_from([1, 3, 8, 130, 200]),
        page_size=st.sampled_from([1, 2, 5]),
        longest=st.integers(2, 40),
        spare=st.integers(0, 6),
        opened=st.randoms(use_true_random=False),
    )
    def begin(self, shards, devices, slots, chunk, page_size, longest, spare, opened):
        self.longest = longest
        segment = -(-longest // (page_size * devices))
        self.each = segment + spare
        self.slots, self.shards = slots, shards
        self.shapes = Shapes(slots, chunk)
        self.opened = set(self.shapes.first)
        self.opened |= {g for g in self.shapes.rest if opened.random() < 0.5}
        for geometry in sorted(self.opened, key=lambda g: opened.random()):
            self.shapes.open(geometry)
        columns = segment * devices
        self.pages = [
            Pages(self.each + 1, page_size, devices, columns) for _ in range(shards)
        ]
        self.scheduler = Scheduler(self.pages, self.shapes, slots)
        self.device = FakeDevice(self.pages, shards * slots)
        self.live: dict[int, Sequence] = {}
        self.flying = None
        self.submitted = self.cancelled = self.stopped = self.steps = 0

    @rule(
        prompt=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=39),
        limit=st.integers(1, 40),
        ruled=st.sampled_from([None, None, FREE, BINDING]),
    )
    def submit(self, prompt, limit, ruled):
        prompt = prompt[: self.longest - 1]
        self.submitted += 1
        limit = min(limit, self.longest - len(prompt))
        sequence = Sequence(self.submitted, list(prompt), len(prompt), GREEDY, limit)
        sequence.rules = ruled
        self.live[sequence.id] = sequence
        self.scheduler.add(sequence)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def cancel(self, data):
        number = data.draw(st.sampled_from(sorted(self.live)))
        self.finish(self.live[number])
        self.cancelled += 1

    @rule(data=st.data(), stops=st.booleans())
    def step(self, data, stops):
        plan = self.scheduler.plan()
        if plan is not None:
            self.check(plan)
            self.steps += 1
        ahead = None if plan is None else (plan, self.device.run(plan))
        if self.flying is not None:
            self.read(*self.flying, data.draw if stops else None)
        self.flying = ahead
        self.advanced = ahead is not None

    def check(self, plan):
        g = plan.geometry
        assert g in self.opened
        assert len(plan.shares) == self.shards
        rows = [row for _, _, row in plan.placed()]
        fed = [row.sequence.id for row in rows]
        assert rows
        assert len(set(fed)) == len(fed)
        for number, place, row in plan.placed():
            assert number // g.rows == place // g.tokens == row.sequence.shard
        for row in rows:
            room = len(row.sequence.pages) * self.device.page_size
            assert row.start + row.count <= min(room, self.longest)
            assert row.sequence.slot is not None
            assert not row.sequence.finished
            assert row.sequence.answered <= row.sequence.limit
            if row.sequence.rules is BINDING:
                assert row.sequence.pending == row.samples  # nothing was unread before
        for decodes, chunks in plan.shares:
            assert len(decodes) <= g.decodes
            assert len(chunks) <= g.chunks
            assert all(row.count == 1 and row.samples for row in decodes)
            assert all(1 <= row.count <= g.chunk_tokens for row in chunks)

    def read(self, plan, tokens, draw):
        for number, _, row in plan.placed():
            sequence = row.sequence
            if not row.samples or sequence.finished:
                continue
            sequence.tokens.append(int(tokens[number]))
            sequence.pending -= 1
            known = sequence.tokens[sequence.prompt_length :]
            prompt = sequence.tokens[: sequence.prompt_length]
            assert known == simple_answer(prompt, len(known))
            assert len(known) <= sequence.limit
            if len(known) == sequence.limit:
                self.finish(sequence)
            elif draw is not None and draw(st.booleans()):
                self.finish(sequence)
                self.stopped += 1

    def finish(self, sequence):
        sequence.finished = True
        self.scheduler.remove(sequence)
        del self.live[sequence.id]

    @invariant()
    def every_page_has_one_owner(self):
        if not hasattr(self, "live"):
            return
        owned = Counter(
            (s.shard, self.pages[s.shard].device(s.home, column), page)
            for s in self.live.values()
            for column, page in enumerate(s.pages)
        )
        assert set(owned.values()) <= {1}
        assert len(owned) == self.scheduler.pages_used
        assert {page for _, _, page in owned} <= set(range(1, self.each + 1))

    @invariant()
    def every_running_sequence_has_a_slot_of_its_own(self):
        if not hasattr(self, "live"):
            return
        slots = [s.slot for s in self.scheduler.running]
        assert len(set(slots)) == len(slots)
        assert set(slots) <= set(range(self.shards * self.slots))
        shards = [s.slot // self.slots for s in self.scheduler.running]
        assert shards == [s.shard for s in self.scheduler.running]
        assert all(s.slot is None and not s.pages for s in self.scheduler.waiting)

    @invariant()
    def the_first_to_come_is_the_first_served(self):
        if not hasattr(self, "live"):
            return
        waiting = [s.id for s in self.scheduler.waiting]
        running = [s.id for s in self.scheduler.running]
        assert waiting == sorted(waiting)
        assert sorted(waiting + running) == sorted(self.live)
        if self.shards == 1:
            assert running + waiting == sorted(self.live)

    def teardown(self):
        """Whatever happened, everyone who is left is served to the end."""
        if not hasattr(self, "live"):
            return
        left = sum(s.prompt_length + s.limit for s in self.live.values())
        preempted = self.scheduler.preemptions
        for _ in range(4 * left + 4):
            self.step(None, stops=False)
            again = self.scheduler.preemptions - preempted
            if not self.live and self.flying is None:
                break
        assert not self.live, f"starved after {4 * left} steps, {again} preemptions"
        assert self.scheduler.pages_used == 0
        assert self.scheduler.plan() is None


def test_serves_everyone_in_order_whatever_happens():
    run_state_machine_as_test(
        Serving,
        settings=settings(max_examples=150, stateful_step_count=40, deadline=None),
    )


def run_to_end(prompts, limits, *, pages, page_size, slots, chunk):
    """Serves requests that come all at once; returns the scheduler and the plans."""
    shapes = Shapes(slots, chunk)
    for geometry in (*shapes.first, *shapes.rest):
        shapes.open(geometry)
    pool = [Pages(pages + 1, page_size)]
    scheduler = Scheduler(pool, shapes, slots)
    sequences = [
        Sequence(i, list(prompt), len(prompt), GREEDY, limit)
        for i, (prompt, limit) in enumerate(zip(prompts, limits, strict=True))
    ]
    for sequence in sequences:
        scheduler.add(sequence)
    device, flying, plans = FakeDevice(pool, slots), None, []
    while flying or not all(s.finished for s in sequences):
        plan = scheduler.plan()
        ahead = (plan, device.run(plan)) if plan else None
        for number, _, row in flying[0].placed() if flying else ():
            sequence = row.sequence
            if row.samples and not sequence.finished:
                sequence.tokens.append(int(flying[1][number]))
                sequence.pending -= 1
                if len(sequence.tokens) - sequence.prompt_length == sequence.limit:
                    sequence.finished = True
                    scheduler.remove(sequence)
        flying = ahead
        plans += [plan] if plan else []
    return scheduler, sequences, plans


def test_the_last_to_come_gives_its_pages_and_loses_nothing():
    prompts = [[i] * 5 for i in range(3)]
    scheduler, sequences, plans = run_to_end(
        prompts, [12] * 3, pages=9, page_size=2, slots=3, chunk=8
    )
    assert scheduler.preemptions > 0
    for sequence, prompt in zip(sequences, prompts, strict=True):
        assert sequence.tokens[5:] == simple_answer(prompt, 12)
    fed_twice = {
        r.sequence.id for p in plans for r in p.shares[0].chunks if r.count > 5
    }
    assert fed_twice
    assert 0 not in fed_twice


def test_decodes_ride_in_every_step_of_a_long_prompt():
    _, _, plans = run_to_end(
        [[1], [2] * 30], [20, 1], pages=60, page_size=1, slots=2, chunk=4
    )
    shares = [p.shares[0] for p in plans]
    chunked = [s for s in shares if s.chunks and s.chunks[0].sequence.id == 1]
    assert len(chunked) == 8
    assert all(len(s.decodes) == 1 for s in chunked)


def test_several_short_prompts_share_a_step():
    _, _, plans = run_to_end(
        [[1] * 30, [2] * 40, [3] * 10],
        [2] * 3,
        pages=200,
        page_size=1,
        slots=4,
        chunk=128,
    )
    assert [row.count for row in plans[0].shares[0].chunks] == [30, 40]


def test_a_lone_request_decodes_in_the_smallest_step():
    _, _, plans = run_to_end([[1, 2]], [9], pages=40, page_size=1, slots=4, chunk=8)
    assert {p.geometry for p in plans[1:]} == {Geometry(1, 0, 0)}


@given(st.integers(1, 40), st.integers(1, 600))
def test_the_first_shapes_suffice_and_none_exceeds_the_limits(seqs, tokens):
    shapes = Shapes(seqs, tokens)
    everything = [*shapes.first, *shapes.rest]
    assert len(set(everything)) == len(everything) <= 4 + seqs.bit_length()
    for g in everything:
        assert 1 <= g.decodes <= seqs
        assert g.chunks * g.chunk_tokens <= tokens
        assert not g.chunks or g.decodes == seqs
    for geometry in shapes.first:
        shapes.open(geometry)
    for decodes in range(1, seqs + 1):
        assert decodes <= shapes.steady(decodes).decodes
    for left in ([1], [10**6], [1] * seqs, [10**6] * seqs):
        assert shapes.mixed(left) in shapes.first


@given(
    st.integers(1, 8),
    st.integers(1, 600),
    st.lists(st.integers(1, 700), min_size=1, max_size=8),
)
def test_a_prompt_never_waits_for_a_chunk_that_is_too_long(seqs, tokens, left):
    shapes = Shapes(seqs, tokens)
    everything = [*shapes.first, *shapes.rest]
    for geometry in everything:
        shapes.open(geometry)
    chosen = shapes.mixed(left)
    assert chosen in everything
    fed = [min(n, chosen.chunk_tokens) for n in left[: chosen.chunks]]
    alone = max(min(left[0], g.chunk_tokens) for g in everything if g.chunks == 1)
    assert sum(fed) >= alone


@pytest.mark.parametrize("later", [1, 2])
def test_a_shape_that_is_opened_later_is_used_from_then_on(later):
    shapes = Shapes(4, 8)
    for geometry in shapes.first:
        shapes.open(geometry)
    assert shapes.steady(later) == Geometry(4, 0, 0)
    shapes.open(Geometry(later, 0, 0))
    assert shapes.steady(later) == Geometry(later, 0, 0)


def test_a_sequence_that_binds_sits_out_while_its_newest_token_is_unread():
    """And one that does not goes on beside it."""
    shapes = Shapes(2, 8)
    for geometry in (*shapes.first, *shapes.rest):
        shapes.open(geometry)
    scheduler = Scheduler([Pages(50, 2)], shapes, 2)
    bound, free = (Sequence(i, [i], 1, GREEDY, 9) for i in range(2))
    bound.rules, free.rules = BINDING, FREE
    scheduler.add(bound)
    scheduler.add(free)

    def planned():
        plan = scheduler.plan()
        return [row.sequence.id for _, _, row in plan.placed()] if plan else None

    assert [planned(), planned()] == [[0], [1]]  # chunks, one at a time
    assert planned() == [1]
    bound.tokens.append(5)
    bound.pending = 0
    assert planned() == [0, 1]
    scheduler.remove(free)
    assert planned() is None  # until its token is read
    bound.tokens.append(6)
    bound.pending = 0
    assert planned() == [0]


def test_prompts_are_judged_in_forms_that_are_open_for_it():
    shapes = Shapes(4, 128)
    for geometry in (*shapes.first, *shapes.rest):
        shapes.open(geometry)
    assert not shapes.scores
    one, several, short = shapes.judging
    assert [one, several, short] == [(4, 1, 128), (4, 2, 64), (4, 1, 64)]
    scheduler = Scheduler([Pages(900, 1)], shapes, 4)
    judged = SamplingParams(prompt_logprobs=1)

    def planned(*sampling):
        for each in sampling:
            scheduler.add(Sequence(each is judged, [1] * 10, 10, each, 1))
        plan = scheduler.plan()
        for _, _, row in plan.placed():
            scheduler.remove(row.sequence)
        return plan.geometry, plan.scores, len(plan.shares[0].chunks)

    shapes.open(one, scores=True)
    assert planned(judged) == (one, True, 1)
    assert planned(GREEDY, judged) == (one, True, 1)
    assert planned() == (one, True, 1)
    shapes.open(several, scores=True)
    shapes.open(short, scores=True)
    assert planned(GREEDY, judged) == (several, True, 2)
    assert planned(judged) == (short, True, 1)
    assert planned(GREEDY, GREEDY) == (several, False, 2)
