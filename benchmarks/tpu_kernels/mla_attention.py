"""Absorbed attention over pages; no kernel inside JAX computes it."""

from collections.abc import Iterator

from tpu_compile import Comparison
from tpu_kernels.paged import ours

from r1jax.pallas.chips import Chip
from r1jax.pallas.mla_attention.cases import CASES


def comparisons(chip: Chip) -> Iterator[Comparison]:
    """Yields every case."""
    for case in CASES:
        program = ours(case, chip)
        yield Comparison("mla_attention", case.name, case.flops, "bfloat16", program)
