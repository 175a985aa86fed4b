"""TPU generations as a kernel sees them: memory, bandwidth, rates.

Rates are those of one device (for v7x one of a chip's two cores; for v5p both, which
it runs as one), from the TPU compiler's own roofline, libtpu 0.0.42; v5p's from its
datasheet, as the compiler's vary (394 TFLOP/s, 2.4 to 2.8 TB/s).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from r1jax.errors import ConfigError

_MIB = 2**20


@dataclass(frozen=True)
class Chip:
    """One TPU generation.

    Attributes:
      name: As in a topology's name: v5e, v5p, v6e, v7x.
      device_kind: As JAX reports it.
      vmem_bytes: On-chip memory of a core.
      bandwidth: Bytes a second from HBM.
      peak: Operations a second of the matrix units, by the operands' dtype.
      mxu_width: Columns of a matrix unit.
      clock: Bundles a second: `peak` over what the matrix units do in a cycle, four
        products of 128 by 128 on v5e, eight on v5p, four of 256 by 256 on the others.
      fp8: What the vector unit unpacks in one instruction.
    """

    name: str
    device_kind: str
    vmem_bytes: int
    bandwidth: float
    peak: Mapping[str, float] = field(hash=False)
    mxu_width: int
    clock: float
    fp8: str


CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            "v5e",
            "TPU v5 lite",
            128 * _MIB,
            0.82e12,
            {"bfloat16": 197e12, "int8": 394e12},
            128,
            1.5e9,
            "float8_e4m3b11fnuz",
        ),
        Chip(
            "v5p",
            "TPU v5",
            64 * _MIB,
            2.76e12,
            {"bfloat16": 459e12, "int8": 918e12},
            128,
            1.75e9,
            "float8_e4m3b11fnuz",
        ),
        Chip(
            "v6e",
            "TPU v6 lite",
            128 * _MIB,
            1.64e12,
            {"bfloat16": 918e12, "int8": 1836e12},
            256,
            1.75e9,
            "float8_e4m3b11fnuz",
        ),
        Chip(
            "v7x",
            "TPU7x",
            64 * _MIB,
            3.7e12,
            {"bfloat16": 996e12, "float8_e4m3fn": 1992e12},
            256,
            1.9e9,
            "float8_e4m3fn",
        ),
    )
}
# The compiler keeps part of VMEM for itself.
_USABLE = 0.9


def fit(kernel: str, buffers: Mapping[str, int], chip: Chip) -> int:
    """Returns the VMEM that a kernel may use, after checking that its buffers fit.

    Args:
      kernel: For the message.
      buffers: Bytes of each buffer, copies in flight counted.
      chip: The generation.

    Raises:
      ConfigError: They do not fit; says which buffer takes how much.
    """
    limit = int(chip.vmem_bytes * _USABLE)
    total = sum(buffers.values())
    if total > limit:
        parts = ", ".join(f"{name} {size:,}" for name, size in buffers.items())
        raise ConfigError(
            f"{kernel} would keep {total:,} bytes in VMEM: {parts}",
            f"a {chip.name} core has {chip.vmem_bytes:,}, {limit:,} of them usable",
            "choose smaller blocks",
        )
    return limit
