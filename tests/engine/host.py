"""The host's part of the engine, step by step: a scheduler and a fake device."""

from engine.fake_device import FakeDevice
from r1jax.engine.pages import Pages
from r1jax.engine.plans import Plan, Row, Sequence
from r1jax.engine.scheduler import Scheduler
from r1jax.engine.shapes import Shapes
from r1jax.engine.types import SamplingParams


class Host:
    """Plans one step ahead of the tokens it reads, as the engine does."""

    def __init__(
        self,
        *,
        pages: int,
        page_size: int,
        slots: int,
        chunk: int,
        shards: int = 1,
        devices: int = 1,
        columns: int = 1,
        prefix_caching: bool = True,
    ) -> None:
        shapes = Shapes(slots, chunk)
        for geometry in (*shapes.first, *shapes.rest):
            shapes.open(geometry)
        for geometry in shapes.judging:
            shapes.open(geometry, scores=True)
        self.pages = [
            Pages(pages + 1, page_size, devices, columns) for _ in range(shards)
        ]
        self.scheduler = Scheduler(self.pages, shapes, slots, prefix_caching)
        self.device = FakeDevice(self.pages, shards * slots)
        self.plans: list[Plan] = []
        self._flying = None
        self._count = 0

    def add(self, prompt: list[int], limit: int = 1, **sampling: object) -> Sequence:
        params = SamplingParams(**{"temperature": 0.0, **sampling})  # type: ignore[arg-type]
        sequence = Sequence(self._count, list(prompt), len(prompt), params, limit)
        self._count += 1
        self.scheduler.add(sequence)
        return sequence

    def finish(self, sequence: Sequence) -> None:
        sequence.finished = True
        self.scheduler.remove(sequence)

    def step(self) -> Plan | None:
        """Plans and runs a step, and reads the one before it."""
        plan = self.scheduler.plan()
        ahead = (plan, self.device.run(plan)) if plan else None
        for number, _, row in self._flying[0].placed() if self._flying else ():
            sequence = row.sequence
            if row.samples and not sequence.finished:
                sequence.tokens.append(int(self._flying[1][number]))
                sequence.pending -= 1
                if len(sequence.tokens) - sequence.prompt_length == sequence.limit:
                    self.finish(sequence)
        self._flying = ahead
        self.scheduler.audit()
        self.plans += [plan] if plan else []
        return plan

    def run(self) -> list[Plan]:
        """Steps until nobody is left; returns all plans."""
        while self.scheduler.running or self.scheduler.waiting or self._flying:
            self.step()
        return self.plans

    def fed(self, sequence: Sequence) -> int:
        """Counts the tokens that were fed in chunks for a sequence."""
        return sum(row.count for row in self.chunks() if row.sequence is sequence)

    def chunks(self) -> list[Row]:
        """Returns all chunks so far, in order."""
        return [row for p in self.plans for share in p.shares for row in share.chunks]
