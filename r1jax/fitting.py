"""Which of R1's distills the accelerator at hand has room for."""

import functools
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from huggingface_hub import constants

from r1jax import parameters
from r1jax.config import ModelConfig
from r1jax.hub.names import RELEASES
from r1jax.presets import preset
from r1jax.quant import scheme
from r1jax.sharding import local_bytes, make_mesh

# Largest first; of few bits before a smaller model.
_DISTILLS = (
    "distill-llama-70b",
    "distill-qwen-32b",
    "distill-qwen-14b",
    "distill-llama-8b",
    "distill-qwen-7b",
    "distill-qwen-1.5b",
)
_DTYPES = ("bfloat16", "int8")
_SHARE = 0.7  # of a device's memory for weights; the rest is for the cache and steps
_CONTEXT = 8192  # tokens: R1's thoughts are long, and a whole context may not fit


@dataclass(frozen=True)
class Fitting:
    """A model that fits, and how.

    Attributes:
      source: What to load; None is r1-nano.
      dtype: Of its weights; None is the usual.
      data: Devices that sequences are cut over.
      tensor: Devices that heads are cut over.
      device_bytes: Of weights on each device; 0 where nobody has counted.
    """

    source: str | None = None
    dtype: str | None = None
    data: int = 1
    tensor: int = 1
    device_bytes: int = 0

    @property
    def options(self) -> dict[str, Any]:
        """What to give `r1jax.load` beside the source."""
        if self.source is None:
            return {}
        options: dict[str, Any] = {"dtype": self.dtype, "max_model_len": _CONTEXT}
        if self.data * self.tensor > 1:
            options["mesh"] = make_mesh(self.data, self.tensor)
        return options


def distill_that_fits() -> Fitting:
    """Returns the largest distill for this machine's accelerators and its disk.

    On a CPU that is r1-nano, which comes with this package.
    """
    devices = jax.local_devices()
    limit = (devices[0].memory_stats() or {}).get("bytes_limit", 0)
    if devices[0].platform == "cpu" or not limit:
        return Fitting()
    return choose(len(devices), int(limit * _SHARE), _free_disk())


def choose(devices: int, memory: int, disk: int) -> Fitting:
    """Returns the largest distill that fits, or r1-nano.

    Args:
      devices: How many there are.
      memory: Bytes of each that weights may take.
      disk: Bytes that its release may take.
    """
    for name in _DISTILLS:
        config = preset(name)
        if _bytes(config, "bfloat16") > disk:
            continue
        heads: Any = config.attention
        tensor = math.gcd(devices, heads.heads, heads.kv_heads)
        for dtype in _DTYPES:
            each = -(-_bytes(config, dtype) // tensor)
            if each <= memory:
                data = devices // tensor
                return Fitting(RELEASES[name], dtype, data, tensor, each)
    return Fitting()


@functools.cache
def _bytes(config: ModelConfig, dtype: str) -> int:
    """Returns the bytes of a model's weights in one of the two forms."""
    shapes = parameters.abstract(config, "bfloat16", scheme(dtype, experts=False))
    return sum(map(local_bytes, jax.tree.leaves(shapes)))


def _free_disk() -> int:
    """Returns the bytes that are free where the hub's files go."""
    folder = Path(constants.HF_HUB_CACHE)
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
