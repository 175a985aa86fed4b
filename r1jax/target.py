"""What a step is compiled for: which form of each part runs, and on which mesh.

Said once, from the devices' kind, and passed down as a static value; nothing further
down asks where it runs.
"""

import logging
from dataclasses import dataclass
from typing import Literal

from jax.sharding import NamedSharding, PartitionSpec

from r1jax.config import GqaConfig, MlaConfig, ModelConfig
from r1jax.errors import ConfigError
from r1jax.pallas.backend import REFERENCE, Backend, for_device
from r1jax.pallas.chips import CHIPS
from r1jax.sharding import Placement

_LANES = 128
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """A way to run a step.

    Attributes:
      form: "plain" is JAX alone, on any device; "cpu" attends row by row over weights
        that `model.for_cpu` has arranged; "kernels" runs the kernels of `r1jax.pallas`,
        over a cache that is laid out for them.
      backend: Which kernels; or their meanings in plain JAX, which run anywhere.
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


def target_for(
    kind: str,
    config: ModelConfig,
    placement: Placement | None = None,
    kernels: bool | None = None,
) -> Target:
    """Returns the fastest way on devices of a kind that is known to be right.

    Args:
      kind: `jax.Device.device_kind`.
      config: The model.
      placement: The mesh, if there is one.
      kernels: Whether kernels run. By default they do on TPU generations that they are
        compiled and checked for; on NVIDIA GPUs, where they have not been run yet, only
        when asked for.

    Raises:
      ConfigError: Kernels are asked for that cannot run.
    """
    trouble = _trouble(kind, config)
    if kernels and trouble:
        raise ConfigError(
            f"kernels are asked for on {kind!r}", trouble, "leave the choice out"
        )
    if kernels is None:
        kernels = not trouble and kind.startswith("TPU")
        if trouble and kind.startswith("TPU"):
            _LOG.warning("no kernels on %s: %s", kind, trouble)
    if kernels:
        return Target("kernels", for_device(kind), placement)
    if placement is None:
        return CPU if kind == "cpu" else PLAIN
    latent = isinstance(config.attention, MlaConfig)
    # The plain form sees one set of sequences, and the whole of their cache.
    cut = placement.devices("latent_pages" if latent else "rows") > 1
    return Target("kernels" if cut else "plain", REFERENCE, placement)


def _trouble(kind: str, config: ModelConfig) -> str:
    """Says why kernels cannot run, or nothing."""
    chips = [chip.device_kind for chip in CHIPS.values()]
    if kind not in chips and not kind.startswith("NVIDIA"):
        return f"they are compiled for {', '.join(chips)} and for NVIDIA GPUs"
    attention = config.attention
    if isinstance(attention, GqaConfig) and 2 * attention.head_dim % _LANES:
        return (
            f"heads {attention.head_dim} wide do not fill registers of {_LANES} lanes"
        )
    return ""
