"""Plans a model on a slice: compiles its steps, and adds up what they say."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from r1jax.cache import Geometry
from r1jax.errors import ConfigError
from r1jax.plan import collectives, hlo
from r1jax.plan.calibration import CALIBRATION
from r1jax.plan.collectives import Collective
from r1jax.plan.floors import Floor, floor_of
from r1jax.plan.program import Setup, compile_step
from r1jax.plan.work import Work, work_of

_GIB = 2**30
_SPARE = 1 / 32  # of a device's memory: for programs and temporaries


@dataclass(frozen=True)
class Memory:
    """Bytes of one device.

    Attributes:
      usable: What the compiler lets a program use; None on a CPU.
      weights: Of the main model.
      state: The programs, small arrays that steps keep, and what layouts pad.
      temporaries: Of the step that takes most.
      token: Bytes of cache a token, on average over the devices.
      unit: Bytes that the cache grows by at least, and its tokens in the whole slice.
      unit_tokens: See `unit`.
    """

    usable: int | None
    weights: int
    state: int
    temporaries: int
    token: float
    unit: int
    unit_tokens: int

    @property
    def cache(self) -> int:
        """Bytes that are left for the cache, in whole pages; negative if none are."""
        if self.usable is None:
            return 0
        left = self.usable - self.weights - self.state - self.temporaries
        return math.floor(left / self.unit) * self.unit

    @property
    def tokens(self) -> int:
        """Tokens of cache in the whole slice; a page of each device is for padding."""
        return max(self.cache // self.unit - 1, 0) * self.unit_tokens


@dataclass(frozen=True)
class Step:
    """One compiled step.

    Attributes:
      name: "decode" or "prefill".
      geometry: Of one shard.
      tokens: That it moves on in the whole slice.
      work: Of each device.
      floor: None on a CPU.
      exchanges: What devices send each other.
      compile_seconds: How long the compiler took.
    """

    name: str
    geometry: Geometry
    tokens: int
    work: Work
    floor: Floor | None
    exchanges: list[Collective]
    compile_seconds: float

    @property
    def expected(self) -> float | None:
        """Seconds of a step as far from its floor as the measured ones; see `Plan`."""
        return None if self.floor is None else CALIBRATION.seconds(self.floor)


@dataclass(frozen=True)
class Plan:
    """What a model takes on a slice.

    Attributes:
      name: Of the model.
      dtype: As it was asked for.
      setup: What was compiled.
      batch: Sequences that decode, in the whole slice.
      memory: Of each device.
      steps: The steps that were compiled.
      versions: Of what estimated it.
    """

    name: str
    dtype: str
    setup: Setup
    batch: int
    memory: Memory
    steps: list[Step]
    versions: dict[str, str]

    @property
    def sequences(self) -> int:
        """How many sequences of the context the cache holds."""
        size = self.setup.page_size
        return self.memory.tokens // (-(-self.setup.context // size) * size)

    @property
    def pages(self) -> int:
        """Pages of each device that the batch needs at full length, if they fit."""
        segment = self.setup.columns // self.setup.segments
        wanted = segment * (self.batch // self.setup.shards) + 1
        if self.memory.usable is None:
            return wanted
        return min(wanted, self.memory.cache // self.memory.unit)

    @property
    def fits(self) -> bool:
        """Whether the cache holds the batch at its context."""
        return self.memory.usable is None or self.sequences >= self.batch

    @property
    def rate_per_chip(self) -> float:
        """Tokens a second and chip that decoding is expected to give; 0 on a CPU."""
        expected = self.steps[0].expected
        return self.batch / expected / self.setup.on.chips if expected else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it as plain numbers and names."""
        on, memory = self.setup.on, self.memory
        p = self.setup.target.placement
        return {
            "model": self.name,
            "dtype": self.dtype,
            "slice": on.name,
            "chips": on.chips,
            "devices": len(on.devices),
            "mesh": dict(p.mesh.shape) if p else {},
            "strategy": p.rules if p else None,
            "form": self.setup.target.form,
            "batch": self.batch,
            "context": self.setup.context,
            "fits": self.fits,
            "memory": {
                **dataclasses.asdict(memory),
                "cache": memory.cache,
                "tokens": memory.tokens,
                "sequences": self.sequences,
            },
            "steps": [_step(step) for step in self.steps],
            "estimate": "the compiler's, and floors; nothing was run",
            "calibration": dataclasses.asdict(CALIBRATION),
            "versions": self.versions,
        }


def _step(step: Step) -> dict[str, Any]:
    floor = step.floor
    return {
        "name": step.name,
        "geometry": step.geometry._asdict(),
        "tokens": step.tokens,
        "work": dataclasses.asdict(step.work),
        "floor_seconds": floor
        and {**dataclasses.asdict(floor), "total": floor.seconds},
        "expected_seconds": step.expected,
        "exchanges": [dataclasses.asdict(one) for one in step.exchanges],
        "compile_seconds": round(step.compile_seconds, 1),
    }


def make_plan(
    name: str,
    dtype: str,
    setup: Setup,
    batch: int,
    chunk: int,
    say: Callable[[str], None] = lambda line: None,
) -> Plan:
    """Compiles a decode and a prefill chunk over a cache that nearly fills the memory.

    Temporaries do not grow with the cache, which is updated in place: so the room for
    it is what the programs leave.

    Args:
      name: Of the model.
      dtype: Of its weights.
      setup: The model on its slice.
      batch: Sequences that decode, in the whole slice.
      chunk: Prompt tokens of a prefill step, in a shard; 0 for none.
      say: Is told what is being compiled.

    Raises:
      ConfigError: The batch does not divide, or the compiler refuses a step.
    """
    rows = _rows(setup, batch)
    shapes = {"decode": Geometry(rows, 0, 0)}
    if chunk:
        shapes["prefill"] = Geometry(rows, 1, chunk)
    pages = _pages(setup)
    steps, compiled = [], []
    for kind, g in shapes.items():
        say(f"compiling {kind} for {setup.on.name}")
        start = time.perf_counter()
        compiled.append(compile_step(setup, g, pages, batch))
        seconds = time.perf_counter() - start
        steps.append(_read(kind, setup, g, compiled[-1], seconds))
    memory = _memory(setup, compiled, pages)
    return Plan(name, dtype, setup, batch, memory, steps, versions())


def may_hold(setup: Setup, batch: int) -> bool:
    """Tells from shapes alone whether a batch at its context may fit."""
    generation = setup.on.generation
    assert generation is not None
    pages = -(-batch * setup.columns // setup.page_step) + 1
    return setup.weight_bytes + pages * setup.step_bytes() <= generation.hbm * (
        1 - _SPARE
    )


def _pages(setup: Setup) -> int:
    """Returns each device's pages, so that some room is left for what is not known yet.

    Raises:
      ConfigError: The weights alone leave none for one sequence.
    """
    least = setup.columns // setup.segments + 1
    generation = setup.on.generation
    if generation is None:
        return least
    left = generation.hbm - setup.weight_bytes
    if left < least * setup.step_bytes():
        raise ConfigError(
            f"no room for a sequence of {setup.context:,} tokens on {setup.on.name}",
            f"weights take {setup.weight_bytes / _GIB:.2f} GiB of each device's "
            f"{generation.hbm / _GIB:.2f}, and it needs "
            f"{least * setup.step_bytes() / _GIB:.2f}",
            "choose a larger slice, fewer bits, or a shorter context",
        )
    spare = int((left - generation.hbm * _SPARE) / setup.step_bytes())
    return max(least, spare)


def _rows(setup: Setup, batch: int) -> int:
    if batch % setup.shards:
        raise ConfigError(
            f"a batch of {batch} over {setup.shards} shards of sequences",
            f"each holds as many, and {batch} is no multiple of {setup.shards}",
            f"choose a multiple of {setup.shards}, or a smaller --data-parallel-size",
        )
    return batch // setup.shards


def _read(name: str, setup: Setup, g: Geometry, compiled: Any, seconds: float) -> Step:
    work = work_of(setup, g, setup.context)
    on = setup.on
    if on.generation is None:
        return Step(name, g, setup.shards * _moved(g), work, None, [], seconds)
    found = collectives.read(hlo.Program(compiled.as_text()), len(on.devices))
    floor = floor_of(work, found, on)
    return Step(name, g, setup.shards * _moved(g), work, floor, found, seconds)


def _moved(g: Geometry) -> int:
    return g.chunks * g.chunk_tokens or g.decodes


def _memory(setup: Setup, compiled: Sequence[Any], pages: int) -> Memory:
    seen = [program.memory_analysis() for program in compiled]
    pool = pages * setup.step_bytes()
    held = max(one.argument_size_in_bytes for one in seen) - pool
    code = sum(one.generated_code_size_in_bytes for one in seen)
    on = setup.on
    return Memory(
        usable=on.generation.hbm if on.generation else None,
        weights=setup.weight_bytes,
        state=held - setup.weight_bytes + code,
        temporaries=max(one.temp_size_in_bytes for one in seen),
        token=setup.token_bytes(),
        unit=setup.step_bytes(),
        unit_tokens=setup.page_step * setup.page_size,
    )


def versions() -> dict[str, str]:
    """Returns the versions of what estimates."""
    found = {"jax": metadata.version("jax")}
    with contextlib.suppress(metadata.PackageNotFoundError):
        found["libtpu"] = metadata.version("libtpu")
    return found
