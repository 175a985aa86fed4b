"""Slices of TPUs that are not there: their devices, memory, rates and links."""

import contextlib
import difflib
import functools
import importlib.util
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from r1jax.errors import ConfigError
from r1jax.pallas.chips import CHIPS, Chip

_GIB = 2**30
# What libtpu must be told before it is loaded: there is no metadata server to ask, and
# another process may hold its lock.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


@dataclass(frozen=True)
class Generation:
    """What a slice of one TPU generation is made of.

    Attributes:
      chip: Rates of a device.
      topology: What the compiler's names begin with.
      hbm: Bytes that the compiler lets a program use of a device's memory (libtpu
        0.0.42, from its message for one that takes more).
      link: Bytes a second over one link between chips in one direction. From the
        datasheets' sums over a chip: 200 GB/s over 4 links of v5e, 400 over 4 of v6e,
        600 over 6 of v5p and v7x. An assumption: no program here has timed them.
      full_ring: Chips along a dimension that close to a ring: all of a pod's 16 on v5e
        and v6e, multiples of a cube's 4 on v5p and v7x.
    """

    chip: Chip
    topology: str
    hbm: int
    link: float
    full_ring: int


GENERATIONS = {
    found.chip.name: found
    for found in (
        Generation(CHIPS["v5e"], "v5e", int(15.75 * _GIB), 50e9, 16),
        Generation(CHIPS["v5p"], "v5p", int(95.74 * _GIB), 100e9, 4),
        Generation(CHIPS["v6e"], "v6e", int(31.25 * _GIB), 100e9, 16),
        Generation(CHIPS["v7x"], "tpu7x", int(94.75 * _GIB), 100e9, 4),
    )
}


class Ring(NamedTuple):
    """How a group of devices can exchange: hops across it, links it has to itself."""

    hops: int
    links: float


@dataclass(frozen=True)
class Slice:
    """Devices to plan for, in the order in which a mesh takes them.

    Attributes:
      name: As it was asked for.
      devices: Described TPUs, or this machine's CPU devices.
      generation: None on a CPU, whose rates nothing here knows.
    """

    name: str
    devices: tuple[Any, ...]
    generation: Generation | None = None

    @property
    def link(self) -> float | None:
        """Bytes a second of a link, one way."""
        return self.generation.link if self.generation else None

    @property
    def devices_per_chip(self) -> int:
        """Two on v7x, whose chips show as two devices each."""
        return len(self.devices) // self.chips

    @cached_property
    def chips(self) -> int:
        """Counts the chips."""
        return len({str(getattr(d, "coords", d)) for d in self.devices})

    @cached_property
    def _size(self) -> tuple[int, ...]:
        coords = [d.coords for d in self.devices]
        return tuple(max(axis) + 1 for axis in zip(*coords, strict=True))

    def ring(self, group: Sequence[int]) -> Ring:
        """Returns what a group of devices has of the torus.

        Groups that lie between each other's members share the links of the box that
        they span.
        """
        assert self.generation is not None
        coords = [self.devices[i].coords for i in group]
        spans = [max(axis) - min(axis) + 1 for axis in zip(*coords, strict=True)]
        around = self.generation.full_ring
        pairs = list(zip(spans, self._size, strict=True))
        closed = [n == whole and n % around == 0 for n, whole in pairs]
        if around == 4:  # a slice of less than a cube has no optical links
            closed = [c and all(n % 4 == 0 for n in self._size) for c in closed]
        hops = sum(
            n // 2 if ring else n - 1 for n, ring in zip(spans, closed, strict=True)
        )
        links = sum(1 + ring for n, ring in zip(spans, closed, strict=True) if n > 1)
        sharing = math.prod(spans) * self.devices_per_chip / len(group)
        return Ring(max(hops, 1), max(links, 1) / max(sharing, 1.0))


def prepare(name: str) -> None:
    """Settles what describing a slice needs; before JAX looks for devices.

    Args:
      name: The slice; for "cpu:8" JAX is to show as many devices.

    Raises:
      ConfigError: It is no slice of a CPU that can be.
    """
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    jax.config.update("jax_platforms", "cpu")
    if name.startswith("cpu:"):
        with contextlib.suppress(RuntimeError):  # JAX has started: `describe` counts
            jax.config.update("jax_num_cpu_devices", _cpu_devices(name))


def describe(name: str) -> Slice:
    """Returns the slice of a name such as v5e:8x8, tpu7x:2x2x1 or cpu:8.

    Raises:
      ConfigError: The compiler does not know the name, or is not installed.
    """
    if name.startswith("cpu:"):
        devices = jax.devices("cpu")
        wanted = _cpu_devices(name)
        if len(devices) < wanted:
            raise ConfigError(
                f"the slice {name!r}",
                f"JAX shows {len(devices)} CPU devices",
                f"let JAX show {wanted}: jax_num_cpu_devices, before it starts",
            )
        return Slice(name, tuple(devices[:wanted]))
    kind, _, size = name.partition(":")
    generation = GENERATIONS.get("v7x" if kind == "tpu7x" else kind)
    if generation is None or not size:
        raise _unknown(name, f"slices are known of {', '.join(GENERATIONS)}")
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            "the TPU compiler is not installed",
            "plans are compiled with libtpu, which needs no TPU",
            'install it: pip install "jax[tpu]" (Linux on x86-64)',
        )
    try:
        found = _described(f"{generation.topology}:{size}")
    except (RuntimeError, ValueError, NotImplementedError) as error:
        # JAX gives what libtpu says.
        raise _unknown(name, str(error).strip().splitlines()[0]) from None
    return Slice(name, tuple(found), generation)


@functools.cache
def _described(name: str) -> Sequence[Any]:
    """Describes a topology; what libtpu prints of hosts that are not there is lost."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _unknown(name: str, why: str) -> ConfigError:
    known = ("v5e:2x2", "v5e:8x8", "v5p:2x2x1", "v5p:2x4x4", "v6e:4x8", "tpu7x:2x2x1")
    near = difflib.get_close_matches(name, known, 1)
    offer = f"did you mean {near[0]!r}? " if near else ""
    return ConfigError(
        f"no slice is called {name!r}",
        why,
        f"{offer}names are like {', '.join(known)}, cpu:8",
    )


def _cpu_devices(name: str) -> int:
    count = name.removeprefix("cpu:")
    if not count.isdecimal() or not 1 <= int(count) <= 1024:
        raise _unknown(name, "a slice of a CPU is cpu: and a number of devices")
    return int(count)
