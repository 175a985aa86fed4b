"""Which form of a kernel runs: said once, from the devices' kind, and passed down.

`jax.default_backend()` is never asked: while compiling ahead for a TPU it says "cpu".
"""

from typing import Literal, NamedTuple

from r1jax.errors import ConfigError
from r1jax.pallas.chips import CHIPS, Chip


class Backend(NamedTuple):
    """A way to run kernels.

    Attributes:
      kind: "reference" is plain JAX; "tpu" and "gpu" are compiled kernels;
        "interpret" simulates the TPU kernel on any machine.
      chip: The TPU generation that block sizes are chosen for.
      detect_races: With "interpret": stop where two copies touch the same bytes.
    """

    kind: Literal["reference", "tpu", "interpret", "gpu"]
    chip: Chip | None = None
    detect_races: bool = False


REFERENCE = Backend("reference")


def for_device(kind: str) -> Backend:
    """Returns the backend for a device kind, as `jax.Device.device_kind` names it.

    Raises:
      ConfigError: A TPU generation that the kernels have not been compiled for.
    """
    chips = {chip.device_kind: chip for chip in CHIPS.values()}
    if kind in chips:
        return Backend("tpu", chips[kind])
    if kind.startswith("TPU"):
        raise ConfigError(
            f"the kernels do not know the device kind {kind!r}",
            f"they are compiled and checked for {', '.join(chips)}",
            "use one of these, or add its row to r1jax/pallas/chips.py",
        )
    return Backend("gpu") if kind.startswith("NVIDIA") else REFERENCE


def interpreted(chip: str = "v6e", detect_races: bool = False) -> Backend:
    """Returns the backend that simulates a TPU's kernels."""
    return Backend("interpret", CHIPS[chip], detect_races)
