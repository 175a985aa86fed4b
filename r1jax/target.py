"""What a step is compiled for: which form of each part runs, and on which mesh.

Said once, from the devices' kind, and passed down as a static value; nothing further
down asks where it runs.
"""

from dataclasses import dataclass
from typing import Literal

from jax.sharding import NamedSharding, PartitionSpec

from r1jax.pallas.backend import REFERENCE, Backend, for_device
from r1jax.sharding import Placement


@dataclass(frozen=True)
class Target:
    """A way to run a step.

    Attributes:
      form: "plain" is JAX alone, on any device; "cpu" attends row by row over weights
        that `model.for_cpu` has arranged; "kernels" runs the kernels of `r1jax.pallas`,
        over a cache that is laid out for them.
      backend: Which kernels.
      placement: The mesh, if there is one. Kernels need to know: they see one device's
        part each. XLA alone cuts the plain form by its arguments' shardings.
    """

    form: Literal["plain", "cpu", "kernels"] = "plain"
    backend: Backend = REFERENCE
    placement: Placement | None = None

    @property
    def by_rows(self) -> bool:
        """Whether attention goes row by row."""
        return self.form == "cpu"

    @property
    def everywhere(self) -> NamedSharding | None:
        """Where small arrays lie that every device needs whole; None without a mesh."""
        p = self.placement
        return None if p is None else NamedSharding(p.mesh, PartitionSpec())

    @property
    def kernels(self) -> bool:
        """Whether kernels run, over their own layout of the cache."""
        return self.form == "kernels"


PLAIN = Target()
CPU = Target("cpu")


def target_for(kind: str, placement: Placement | None = None) -> Target:
    """Returns the fastest way on devices of a kind (`jax.Device.device_kind`).

    Raises:
      ConfigError: A TPU generation that the kernels do not know.
    """
    if kind == "cpu" and placement is None:
        return CPU
    backend = for_device(kind)
    form: Literal["plain", "kernels"] = "plain" if backend == REFERENCE else "kernels"
    return Target(form, backend, placement)
