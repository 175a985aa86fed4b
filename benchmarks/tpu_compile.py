"""Compiles a function for a TPU that is not there, and reads one kernel's schedule."""

import functools
import os
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
_FLAGS = f"--xla_jf_dump_to={_DUMP} --xla_jf_dump_llo_text=true"
# Read once, when the compiler is loaded.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "LIBTPU_INIT_ARGS": f"{_FLAGS} --xla_jf_dump_hlo_text=true",
}
TOPOLOGIES = {"v5e": "v5e:2x2", "v6e": "v6e:2x2", "v7x": "tpu7x:2x2x1"}


@dataclass(frozen=True)
class Program:
    """One way to compute a case.

    Attributes:
      who: r1jax, or the peer.
      kernel: Part of the kernel's name in the compiler's dump.
      function: What is compiled.
      shapes: Its arguments, `jax.ShapeDtypeStruct`s.
      passes: How often each loop of the kernel runs, in program order.
      donate: Arguments that are given up.
    """

    who: str
    kernel: str
    function: Callable[..., Any]
    shapes: Sequence[Any]
    passes: Callable[[Sequence[tpu_bundles.Loop]], Sequence[int]]
    donate: tuple[int, ...] = ()


def estimate(program: Program, chip: Chip, flops: int, size: int) -> dict[str, Any]:
    """Returns a program's floor on a chip, and which of the three limits binds.

    Args:
      program: What is compiled.
      chip: For which generation.
      flops: What the case must compute.
      size: Bytes that it must move.
    """
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
        compiled = jitted.trace(*placed).lower(lowering_platforms=("tpu",)).compile()
    schedule = tpu_bundles.read(_DUMP, program.kernel)
    passes = program.passes(schedule.loops)
    main = schedule.main(passes)
    limits = {
        "bytes": size / chip.bandwidth,
        "flops": flops / chip.peak["bfloat16"],
        "bundles": schedule.cycles(passes) / chip.clock,
    }
    binds = max(limits, key=lambda name: limits[name])
    return {
        "who": program.who,
        **{f"{name}_us": round(1e6 * value, 1) for name, value in limits.items()},
        "floor_us": round(1e6 * limits[binds], 1),
        "binds": binds,
        "main_loop_bundles": main.bundles,
        "mxu_fill": round(schedule.fill(main, "MXU"), 2),
        "spills": main.slots["VSTORE:SPILL"] + main.slots["VLOAD:FILL"],
        "temporaries_mib": round(compiled.memory_analysis().temp_size_in_bytes / 2**20),
    }


@functools.cache
def _device(chip: Chip) -> Any:
    os.environ.update(_ENVIRONMENT)
    jax.config.update("jax_platforms", "cpu")
    return topologies.get_topology_desc(
        platform="tpu", topology_name=TOPOLOGIES[chip.name]
    ).devices[0]
