"""Shapes of the real models, each with a small twin for the simulator."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from r1jax.pallas.expert_dispatch.api import most_rows
from r1jax.pallas.expert_dispatch.plan import Axis
from r1jax.typing import Array


@dataclass(frozen=True)
class Case:
    """Tokens of one device, the experts of all, and the slice that they are on.

    Attributes:
      name: For tables.
      topology: The slice, as the compiler names it.
      devices: In it.
      tokens: On each device.
      width: D.
      experts: On all devices.
      per_token: Experts that a token chooses.
      small: The shape of the twin: tokens, width, experts, per_token.
    """

    name: str
    topology: str
    devices: int
    tokens: int
    width: int = 7168
    experts: int = 256
    per_token: int = 8
    small: tuple[int, int, int, int] = (5, 256, 16, 3)

    @property
    def axis(self) -> Axis:
        """The axis, under the name that tests and benchmarks give it."""
        return Axis("expert", self.devices)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in bfloat16."""
        return 2 * self.width

    def most_rows(self) -> int:
        """Rows that a device has room for when all tokens may come to it."""
        e, x = self.experts, self.per_token
        return most_rows(self.tokens, x, experts=e, axis=self.axis)

    def arguments(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Returns the shapes of x, chosen and weights on one device."""
        t, x = self.tokens, self.per_token
        return (
            jax.ShapeDtypeStruct((t, self.width), jnp.bfloat16),
            jax.ShapeDtypeStruct((t, x), jnp.int32),
            jax.ShapeDtypeStruct((t, x), jnp.float32),
        )

    def flops(self) -> int:
        """Multiplications and additions of the weighted sums of a device's tokens."""
        return 2 * self.tokens * self.per_token * self.width

    def sent_bytes(self, form: str) -> dict[str, int]:
        """Returns the bytes that a device sends, when choices are spread evenly.

        The reference sends a token to everyone (in a ring, each link carries as much)
        and float32 sums back; the others a row for each choice, in both directions.
        """
        others = self.devices - 1
        if form == "reference":
            out = self.tokens * others * self.row_bytes
            return {"dispatch": out, "combine": 2 * out}
        rows = self.tokens * self.per_token * others // self.devices
        return {"dispatch": rows * self.row_bytes, "combine": rows * self.row_bytes}

    def copies(self) -> dict[str, float]:
        """Returns the copies that the kernels start, when choices are spread evenly.

        Outward one for each choice. Homeward one for each bit that is set in the length
        of a run; runs are as long as a Poisson draw.
        """
        choices = self.tokens * self.per_token
        mean = choices / self.experts
        lengths = jnp.arange(1024)
        chance = jax.scipy.stats.poisson.pmf(lengths, mean)
        bits = float((chance * _set_bits(lengths)).sum())
        return {"dispatch": float(choices), "combine": self.experts * bits}


def _set_bits(x: Array) -> Array:
    return ((x[:, None] >> jnp.arange(10)[None]) & 1).sum(1)


CASES = (
    *(Case(f"r1-v6e8-t{t}", "v6e:2x4", 8, t) for t in (16, 64, 256)),
    *(Case(f"r1-v5e64-t{t}", "v5e:8x8", 64, t) for t in (16, 64, 256)),
    *(Case(f"r1-v7x8-t{t}", "tpu7x:2x2x1", 8, t) for t in (16, 64, 256)),
)
