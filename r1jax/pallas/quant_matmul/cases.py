"""Dense projections of R1 and its distills at decode sizes, each with a small twin.

A cut of a matrix in eight is what one chip holds under tensor parallelism.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from r1jax.pallas.dequant import FORMS


@dataclass(frozen=True)
class Case:
    """One product.

    Attributes:
      name: For tables.
      rows: Tokens, T.
      depth: D.
      columns: F.
      form: How the weights are stored, of `FORMS`.
    """

    name: str
    rows: int
    depth: int
    columns: int
    form: str = "int8"

    def arguments(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Returns x, weights and scales, by shape."""
        form = FORMS[self.form]
        scales = form.scales(self.depth, self.columns)
        assert scales is not None  # no case is plain
        return (
            jax.ShapeDtypeStruct((self.rows, self.depth), jnp.bfloat16),
            jax.ShapeDtypeStruct((self.depth, self.columns), form.dtype),
            jax.ShapeDtypeStruct(scales, jnp.float32),
        )

    def flops(self) -> int:
        """Of the product."""
        return 2 * self.rows * self.depth * self.columns

    def bytes(self) -> int:
        """Weights, rows in and rows out, each moved once."""
        bits = jax.dtypes.itemsize_bits(FORMS[self.form].dtype)
        weights = self.depth * self.columns * bits // 8
        return weights + 2 * self.rows * (self.depth + self.columns)

    def small(self) -> "Case":
        """Returns the twin: few enough numbers for the simulator."""
        ragged = self.columns % 128
        return replace(self, rows=min(self.rows, 20), depth=512, columns=384 + ragged)


CASES = (
    Case("R1 q_a", 8, 7168, 1536),
    Case("R1 q_a, blocks of fp8", 8, 7168, 1536, "fp8_blocks"),
    Case("R1 q_b", 64, 1536, 24576),
    Case("R1 q_b in eight, int4", 64, 1536, 3072, "int4"),
    Case("R1 kv_a", 8, 7168, 576),
    Case("R1 kv_a, blocks of fp8", 8, 7168, 576, "fp8_blocks"),
    Case("R1 kv_b", 1, 512, 32768),
    Case("R1 o", 8, 16384, 7168),
    Case("R1 o in eight, blocks of fp8", 64, 2048, 7168, "fp8_blocks"),
    Case("R1 dense gate", 256, 7168, 18432),
    Case("R1 dense gate in eight, fp8", 32, 7168, 2304, "fp8"),
    Case("R1 dense down", 64, 18432, 7168),
    Case("R1 dense down, int4", 64, 18432, 7168, "int4"),
    Case("Qwen 7B down", 8, 18944, 3584),
    Case("Qwen 1.5B gate", 1, 1536, 8960),
    Case("Qwen 14B gate in eight", 32, 5120, 1728),
    Case("Qwen 32B down in eight", 8, 3456, 5120),
    Case("Llama 8B down", 64, 14336, 4096),
    Case("Llama 70B gate in eight", 128, 8192, 3584),
)
