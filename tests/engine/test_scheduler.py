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
from r1jax.cache import Geometry
from r1jax.engine.pages import Pages
from r1jax.engine.scheduler import Scheduler, Sequence
from r1jax.engine.shapes import Shapes
from r1jax.engine.types import SamplingParams

GREEDY = SamplingParams(temperature=0.0)


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
    )
    def begin(
        self, shards, devices, slots, chunk, fine, page_size, longest, spare, opened
    ):
        self.longest = longest
        segment = -(-longest // (page_size * devices))
        self.each = segment + spare
        self.slots, self.shards = slots, shards
        self.shapes = Shapes(slots, chunk, fine)
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
    )
    def submit(self, prompt, limit):
        prompt = prompt[: self.longest - 1]
        self.submitted += 1
        limit = min(limit, self.longest - len(prompt))
        sequence = Sequence(self.submitted, list(prompt), len(prompt), GREEDY, limit)
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
