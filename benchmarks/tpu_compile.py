"""Compiles a function for a TPU that is not there, and reads one kernel's schedule."""

import atexit
import functools
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tpu_bundles
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from r1jax.pallas.chips import Chip

_DUMP = Path(tempfile.mkdtemp(prefix="tpu_schedule_"))
atexit.register(shutil.rmtree, _DUMP, ignore_errors=True)
_FLAGS = f"--xla_jf_dump_to={_DUMP} --xla_jf_dump_llo_text=true"
# Read once, when the compiler is loaded.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "LIBTPU_INIT_ARGS": f"{_FLAGS} --xla_jf_dump_llo_pass_label_regex=final",
}
TOPOLOGIES = {"v5e": "v5e:2x2", "v6e": "v6e:2x2", "v7x": "tpu7x:2x2x1"}
# Instructions of a program that move nothing.
_STILL = {"parameter", "bitcast", "tuple", "get-tuple-element", "constant"}
_INSTRUCTION = re.compile(r"= (?P<type>\(?[^ ]+\[.*?) (?P<name>[a-z][a-z-]*)\(")
_ARRAY = re.compile(r"[a-z]+(?P<bits>\d+)\w*\[(?P<sizes>[\d,]*)\]")

Passes = Callable[[Sequence[tpu_bundles.Region]], Sequence[int | None]]


@dataclass(frozen=True)
class Program:
    """One way to compute a case.

    Attributes:
      who: r1jax, or the peer.
      kernel: Part of the kernel's name in the compiler's dump.
      function: What is compiled.
      shapes: Its arguments, `jax.ShapeDtypeStruct`s.
      passes: How often each region of the kernel runs, in program order; None is as
        often as what is around it.
      moved: Bytes that its own copies move, by its grid and block specs.
      blocks: Its block sizes, for the table.
      donate: Arguments that are given up.
      before: What XLA runs before the kernel and another's kernel does itself: names in
        the dump as `kernel`, each with its passes. It is no part of the floor.
    """

    who: str
    kernel: str
    function: Callable[..., Any]
    shapes: Sequence[Any]
    passes: Passes
    moved: int
    blocks: str = ""
    donate: tuple[int, ...] = ()
    before: tuple[tuple[str, Passes], ...] = ()


@dataclass(frozen=True)
class Comparison:
    """A case, as we compute it and as others do.

    Attributes:
      kernel: Ours.
      case: Its name.
      flops: What must be computed.
      dtype: Of the products: a key of `Chip.peak`.
      ours: Our program.
      peers: Theirs, each with several block sizes.
      goal: The best peer's floor over ours that is aimed at.
      note: For the reader of the table.
    """

    kernel: str
    case: str
    flops: int
    dtype: str
    ours: Program
    peers: Sequence[Program] = ()
    goal: float | None = None
    note: str = ""


class RefusedError(Exception):
    """The compiler, or the program itself, does not take the sizes."""


def listed(*passes: tuple[str, int | None]) -> Passes:
    """Returns passes of regions whose kinds ("loop", "branch") must be these."""

    def matched(regions: Sequence[tpu_bundles.Region]) -> list[int | None]:
        kinds = [kind for kind, _ in passes]
        found = [region.kind for region in regions]
        if kinds != found:
            sizes = [f"{r.kind} {r.bundles}" for r in regions]
            raise ValueError(f"passes are written for {kinds}, the kernel has {sizes}")
        return [n for _, n in passes]

    return matched


def estimate(program: Program, chip: Chip, flops: int, dtype: str) -> dict[str, Any]:
    """Returns a program's floor on a chip, and which of the three limits binds.

    Args:
      program: What is compiled.
      chip: For which generation.
      flops: What the case must compute.
      dtype: Of its products.

    Raises:
      RefusedError: It does not compile.
      ValueError: Its passes do not fit the kernel's regions.
    """
    compiled = _compiled(program, chip)
    schedule = tpu_bundles.read(_DUMP, program.kernel)
    try:
        passes = program.passes(schedule.regions)
        cycles, main = schedule.cycles(passes), schedule.main(passes)
    except ValueError as error:
        where = f"{program.who} {program.blocks} on {chip.name}: {schedule.outline()}"
        raise ValueError(f"{error}; {where}") from error
    limits = {
        "bytes": program.moved / chip.bandwidth,
        "flops": flops / chip.peak[dtype],
        "bundles": cycles / chip.clock,
    }
    binds = max(limits, key=lambda name: limits[name])
    before = 0.0
    for name, counted in program.before:
        first = tpu_bundles.read(_DUMP, name)
        before += first.cycles(counted(first.regions)) / chip.clock
    return {
        "who": program.who,
        "blocks": program.blocks,
        **{f"{name}_us": round(1e6 * value, 1) for name, value in limits.items()},
        "before_us": round(1e6 * before, 1),
        "floor_us": round(1e6 * limits[binds], 1),
        "binds": binds,
        "main_bundles": main.bundles,
        "mxu_fill": round(schedule.fill(main, "MXU"), 2),
        "mxu_fill_all": round(schedule.fill_all(passes, "MXU"), 2),
        "spills": main.slots["VSTORE:SPILL"] + main.slots["VLOAD:FILL"],
        "temporaries_mib": round(compiled.memory_analysis().temp_size_in_bytes / 2**20),
        "around_mib": round(_around(compiled.as_text()) / 2**20),
    }


def _compiled(program: Program, chip: Chip) -> Any:
    for path in _DUMP.iterdir():
        path.unlink()
    mesh = Mesh(np.array([_device(chip)]), ("x",))
    whole = NamedSharding(mesh, PartitionSpec())
    placed = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=whole),
        tuple(program.shapes),
    )
    with jax.set_mesh(mesh):
        jitted = jax.jit(program.function, donate_argnums=program.donate)
        try:
            traced = jitted.trace(*placed)
            return traced.lower(lowering_platforms=("tpu",)).compile()
        except Exception as error:  # whatever a peer or the compiler raises
            first = str(error).strip().splitlines() or [""]
            raise RefusedError(f"{type(error).__name__}: {first[0][:200]}") from error


def _around(text: str) -> int:
    """Adds up what a program's instructions write, but for its kernels."""
    written = 0
    for line in text[text.index("ENTRY") :].splitlines()[1:]:
        match = _INSTRUCTION.search(line)
        if match and match["name"] not in _STILL and "tpu_custom_call" not in line:
            for array in _ARRAY.finditer(match["type"]):
                sizes = [int(n) for n in array["sizes"].split(",") if n]
                written += math.prod(sizes) * int(array["bits"]) // 8
    return written


@functools.cache
def _device(chip: Chip) -> Any:
    os.environ.update(_ENVIRONMENT)
    jax.config.update("jax_platforms", "cpu")
    return topologies.get_topology_desc(
        platform="tpu", topology_name=TOPOLOGIES[chip.name]
    ).devices[0]
