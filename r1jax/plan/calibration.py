"""How far measured steps were from their floors: from a floor to what to expect.

The only published times of this model on TPUs that name batch and context are those of
jax-llm-examples' decode on 64 v5e chips (its README, jax 0.5.2). Its program is
compiled by the same compiler, its floors are worked out as ours, and two numbers are
fitted (benchmarks/plan_peer.py --calibrate). They say what that program reached; ours
may reach more or less.
"""

from dataclasses import dataclass
from typing import Final

from r1jax.plan.floors import Floor


@dataclass(frozen=True)
class Calibration:
    """How far measured steps were from their floors.

    Attributes:
      share: Of memory bandwidth, or of the matrix units' peak, that was reached.
      overhead: Seconds that each exchange took beyond its floor: starting it, and the
        small operations around it.
      source: Whose steps.
      error: The largest relative error over the measurements, each left out in turn.
    """

    share: float
    overhead: float
    source: str
    error: float

    def seconds(self, floor: Floor) -> float:
        """Returns what a step took that was as far from its floor as these."""
        busy = max(floor.memory, floor.compute) / self.share
        return busy + floor.exchange + floor.exchanges * self.overhead


CALIBRATION: Final = Calibration(
    share=0.379,
    overhead=11.5e-6,
    source="jax-llm-examples' R1 on 64 v5e chips",
    error=0.03,
)
