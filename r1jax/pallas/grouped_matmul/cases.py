"""Shapes of R1's routed experts on one chip, each with a small twin."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from r1jax.pallas.dequant import FORMS
from r1jax.pallas.grouped_matmul.kernel import Blocks


@dataclass(frozen=True)
class Case:
    """Rows of one chip, and its experts.

    Attributes:
      name: For tables.
      rows: M.
      experts: On the chip: 4 of 256 on v5e:8x8, 8 on 32 devices, 16, 32.
      form: How the weights are stored, of `FORMS`.
      fused: Gate and up; otherwise down.
      width: D of the model.
      hidden: Of an expert.
      blocks: Sizes to use instead of the rule's; only twins say them.
    """

    name: str
    rows: int
    experts: int
    form: str = "int8"
    fused: bool = True
    width: int = 7168
    hidden: int = 2048
    blocks: Blocks | None = None

    @property
    def depth(self) -> int:
        """Terms of the sum."""
        return self.width if self.fused else self.hidden

    @property
    def columns(self) -> int:
        """Of the result."""
        return self.hidden if self.fused else self.width

    @property
    def gates(self) -> int:
        """Matrices of an expert."""
        return 2 if self.fused else 1

    def sizes(self) -> list[int]:
        """Rows of each expert, as even as they can be."""
        share, more = divmod(self.rows, self.experts)
        return [share + (i < more) for i in range(self.experts)]

    def arguments(self) -> tuple[jax.ShapeDtypeStruct | None, ...]:
        """Returns rows, sizes, weights and scales, by shape."""
        form, e = FORMS[self.form], self.experts
        between = (2,) if self.fused else ()
        scales = form.scales(self.depth, self.columns, *between)
        weights = (e, self.depth, *between, self.columns)
        return (
            jax.ShapeDtypeStruct((self.rows, self.depth), jnp.bfloat16),
            jax.ShapeDtypeStruct((e,), jnp.int32),
            jax.ShapeDtypeStruct(weights, form.dtype),
            None if scales is None else jax.ShapeDtypeStruct((e, *scales), jnp.float32),
        )

    def flops(self) -> int:
        """Of the products alone."""
        return 2 * self.rows * self.depth * self.gates * self.columns

    def bytes(self) -> int:
        """Weights of the experts used, rows in and out, each moved once."""
        bits = jax.dtypes.itemsize_bits(FORMS[self.form].dtype)
        used = min(self.rows, self.experts)
        weights = used * self.depth * self.gates * self.columns * bits // 8
        return weights + 2 * self.rows * (self.depth + self.columns)

    def small(self) -> "Case":
        """Returns the twin: few enough numbers for the simulator."""
        many = self.rows > 64
        return replace(
            self,
            rows=104 if many else min(self.rows, 24),
            experts=min(self.experts, 5),
            width=512,
            hidden=256,
            blocks=Blocks(48, 32, 16, 128, 256) if many else None,
        )


CASES = (
    Case("8 rows, 4 experts", 8, 4),
    Case("8 rows, 4 experts, down", 8, 4, fused=False),
    Case("8 rows, 32 experts, blocks of fp8", 8, 32, "fp8_blocks"),
    Case("8 rows, 16 experts, int4", 8, 16, "int4"),
    Case("8 rows, 8 experts, bfloat16", 8, 8, "bfloat16"),
    Case("64 rows, 8 experts", 64, 8),
    Case("64 rows, 8 experts, fp8 down", 64, 8, "fp8", fused=False),
    Case("64 rows, 8 experts, bfloat16 down", 64, 8, "bfloat16", fused=False),
    Case("256 rows, 8 experts", 256, 8),
    Case("256 rows, 32 experts, int4 down", 256, 32, "int4", fused=False),
    Case("1024 rows, 4 experts", 1024, 4),
    Case("1024 rows, 4 experts, down", 1024, 4, fused=False),
    Case("1024 rows, 4 experts, bfloat16", 1024, 4, "bfloat16"),
    Case("1024 rows, 8 experts, blocks of fp8", 1024, 8, "fp8_blocks"),
    Case("1024 rows, 32 experts", 1024, 32),
    Case("8192 rows, 4 experts", 8192, 4),
    Case("8192 rows, 4 experts, bfloat16 down", 8192, 4, "bfloat16", fused=False),
    Case("8192 rows, 16 experts, int4", 8192, 16, "int4"),
)
