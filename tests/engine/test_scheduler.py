"""The scheduler against a device whose tokens are right only if every page is."""

from collections import Counter

from hypothesis import settings
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
from engine.host import Host
from r1jax.cache import Geometry
from r1jax.engine.guides import BadWords, Rules
from r1jax.engine.pages import Pages
from r1jax.engine.plans import Sequence
from r1jax.engine.scheduler import Scheduler
from r1jax.engine.shapes import Shapes
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
        fine=st.booleans(),
        page_size=st.sampled_from([1, 2, 5]),
        longest=st.integers(2, 40),
        spare=st.integers(0, 6),
        opened=st.randoms(use_true_random=False),
        caching=st.sampled_from([True, True, False]),
        priorities=st.sampled_from([1, 1, 3]),
    )
    def begin(
        self,
        shards,
        devices,
        slots,
        chunk,
        fine,
        page_size,
        longest,
        spare,
        opened,
        caching,
        priorities,
    ):
        self.caching, self.priorities = caching, priorities
        self.longest = longest
        segment = -(-longest // (page_size * devices))
        self.each = segment + spare
        self.slots, self.shards = slots, shards
        self.shapes = Shapes(slots, chunk, fine=fine)
        self.opened = set(self.shapes.first)
        self.opened |= {g for g in self.shapes.rest if opened.random() < 0.5}
        for geometry in sorted(self.opened, key=lambda g: opened.random()):
            self.shapes.open(geometry)
        self.shapes.open(opened.choice(self.shapes.judging), scores=True)
        columns = segment * devices
        self.pages = [
            Pages(self.each + 1, page_size, devices, columns) for _ in range(shards)
        ]
        self.scheduler = Scheduler(self.pages, self.shapes, slots, caching)
        self.device = FakeDevice(self.pages, shards * slots)
        self.live: dict[int, Sequence] = {}
        self.flying = None
        self.submitted = self.cancelled = self.stopped = self.steps = 0

    @rule(
        prompt=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=39),
        limit=st.integers(1, 40),
        priority=st.integers(0, 2),
        judged=st.sampled_from([None, None, None, 0]),
        ruled=st.sampled_from([None, None, FREE, BINDING]),
    )
    def submit(self, prompt, limit, priority, judged, ruled):
        self.serve(prompt, limit, priority, judged, ruled)

    @rule(
        first=st.integers(0, 1),
        length=st.integers(1, 39),
        copies=st.integers(1, 3),
        limit=st.integers(1, 40),
        priority=st.integers(0, 2),
        goes_on=st.booleans(),
    )
    def submit_alike(self, first, length, copies, limit, priority, goes_on):
        """One of two beginnings, in some cases with what the model answers to it."""
        prompt = [first] * length
        if goes_on:
            prompt = [first] * 4 + simple_answer([first] * 4, length)
        for _ in range(copies):
            self.serve(prompt, limit, priority)

    def serve(self, prompt, limit, priority, judged=None, ruled=None):
        prompt = prompt[: self.longest - 1]
        self.submitted += 1
        limit = min(limit, self.longest - len(prompt))
        sampling = SamplingParams(
            temperature=0.0, priority=priority % self.priorities, prompt_logprobs=judged
        )
        sequence = Sequence(self.submitted, list(prompt), len(prompt), sampling, limit)
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
        assert g in (self.shapes.judging if plan.scores else self.opened)
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
            if row.sequence.sampling.prompt_logprobs is not None:
                assert row.sequence.found == 0
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
    def every_page_is_accounted_for(self):
        if not hasattr(self, "live"):
            return
        self.scheduler.audit()
        owned = Counter(
            (s.shard, self.pages[s.shard].device(s.home, column), page)
            for s in self.live.values()
            for column, page in enumerate(s.pages)
        )
        assert self.caching or set(owned.values()) <= {1}
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
    def the_better_rank_is_served_first(self):
        """Priority, then arrival; only who waits for a page is overtaken."""
        if not hasattr(self, "live"):
            return
        waiting = [s.rank for s in self.scheduler.waiting]
        running = [s.rank for s in self.scheduler.running]
        everyone = sorted(s.rank for s in self.live.values())
        assert waiting == sorted(waiting)
        assert sorted(waiting + running) == everyone
        alike = self.caching or self.priorities > 1
        if self.shards == 1 and not alike:
            assert running + waiting == everyone

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
        self.scheduler.audit()
        assert self.scheduler.prefix_hits <= self.scheduler.prefix_queries
        assert self.caching or self.scheduler.prefix_queries == 0
        assert self.scheduler.plan() is None


def test_serves_everyone_in_order_whatever_happens():
    run_state_machine_as_test(
        Serving,
        settings=settings(max_examples=150, stateful_step_count=40, deadline=None),
    )


def run_to_end(prompts, limits, **how):
    """Serves requests that come all at once; returns the scheduler and the plans."""
    host = Host(prefix_caching=False, **how)
    sequences = [host.add(*each) for each in zip(prompts, limits, strict=True)]
    return host.scheduler, sequences, host.run()


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
    assert [g[:3] for g in shapes.judging] == [(4, 1, 128), (4, 2, 64), (4, 1, 64)]
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
