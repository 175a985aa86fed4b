"""The time that a step cannot go below."""

from collections.abc import Sequence
from dataclasses import dataclass

from r1jax.plan.collectives import Collective
from r1jax.plan.slices import Slice
from r1jax.plan.work import Work


@dataclass(frozen=True)
class Floor:
    """Limits of one step, in seconds.

    Attributes:
      memory: Bytes read over the memory's bandwidth.
      compute: Operations over the matrix units' bfloat16 peak; weights of few bits are
        widened before they are multiplied.
      exchange: Collectives, one after the other.
      exchanges: How many of them.
    """

    memory: float
    compute: float
    exchange: float
    exchanges: int

    @property
    def seconds(self) -> float:
        """The floor: reading and multiplying overlap, exchanges wait for both."""
        return max(self.memory, self.compute) + self.exchange

    @property
    def binds(self) -> str:
        """What takes longest: memory, compute or exchange."""
        limits = ("memory", "compute", "exchange")
        return max(limits, key=lambda name: float(getattr(self, name)))


def floor_of(work: Work, found: Sequence[Collective], on: Slice) -> Floor:
    """Returns the floor of a step on a slice of TPUs."""
    assert on.generation is not None
    chip = on.generation.chip
    return Floor(
        work.bytes / chip.bandwidth,
        work.flops / chip.peak["bfloat16"],
        sum(one.seconds(on) for one in found),
        sum(one.times for one in found),
    )
