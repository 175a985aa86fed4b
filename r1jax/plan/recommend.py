"""Tries slices and strategies, and ranks those that fit."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from r1jax.cache import Geometry
from r1jax.config import ModelConfig
from r1jax.errors import R1jaxError
from r1jax.plan.program import Setup, make_setup
from r1jax.plan.report import Plan, make_plan, may_hold
from r1jax.plan.slices import Slice, describe
from r1jax.plan.work import work_of
from r1jax.quant import Scheme
from r1jax.sharding import STRATEGIES

SLICES = (
    *(f"{chip}:{size}" for chip in ("v5e", "v6e") for size in ("2x2", "2x4", "4x4")),
    *(f"{chip}:{size}" for chip in ("v5e", "v6e") for size in ("4x8", "8x8")),
    *("v5p:2x2x1", "v5p:2x2x2", "v5p:2x2x4", "v5p:2x4x4"),
    *("tpu7x:2x2x1", "tpu7x:2x2x2", "tpu7x:2x2x4"),
)


@dataclass(frozen=True)
class Candidate:
    """A way to serve, judged by shapes alone.

    Attributes:
      dtype: Of the weights, as asked for.
      setup: The model on its slice.
      most: Tokens a second and chip that its memory and matrix units allow.
    """

    dtype: str
    setup: Setup
    most: float


def candidates(
    config: ModelConfig,
    schemes: Sequence[tuple[str, Scheme | None]],
    batch: int,
    context: int,
    slices: Sequence[str] = SLICES,
    find: Callable[[str], Slice] = describe,
) -> list[Candidate]:
    """Lists the best way on each slice to hold a batch at its context, best first.

    Args:
      config: The model.
      schemes: Names of dtypes, and what each stores in few bits.
      batch: Sequences at once.
      context: Tokens of each.
      slices: Which to try.
      find: Describes one.
    """
    best: list[Candidate] = []
    for name in slices:
        on, found = find(name), []
        for dtype, scheme in schemes:
            for setup in _setups(config, on, scheme, context):
                if batch % setup.shards or not may_hold(setup, batch):
                    continue
                g = Geometry(batch // setup.shards, 0, 0)
                work, generation = work_of(setup, g, context), on.generation
                assert generation is not None
                chip = generation.chip
                least = work.bytes / chip.bandwidth, work.flops / chip.peak["bfloat16"]
                found.append(Candidate(dtype, setup, batch / max(least) / on.chips))
        best += sorted(found, key=lambda one: -one.most)[:1]
    return sorted(best, key=lambda one: -one.most)


def _setups(
    config: ModelConfig, on: Slice, scheme: Scheme | None, context: int
) -> Iterator[Setup]:
    """Yields the strategies that the model's sizes divide by."""
    for strategy in STRATEGIES:
        try:
            yield make_setup(
                config, on, strategy=strategy, scheme=scheme, context=context
            )
        except R1jaxError:
            continue  # sizes that do not divide by this slice


def recommend(
    name: str, found: Sequence[Candidate], batch: int, say: Callable[[str], None]
) -> list[Plan]:
    """Compiles candidates; returns those that fit, the most tokens a chip first."""
    plans = []
    for number, one in enumerate(found, start=1):
        say(f"{number} of {len(found)}: {one.setup.on.name} {one.dtype}")
        try:
            plan = make_plan(name, one.dtype, one.setup, batch, 0, say)
        except R1jaxError as error:
            say(str(error))
            continue
        if plan.fits:
            plans.append(plan)
    return sorted(plans, key=lambda plan: -plan.rate_per_chip)
