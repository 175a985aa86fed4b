"""How much of a device's memory is left for the cache, and how many pages that is."""

import os
from collections.abc import Mapping

import jax

from r1jax import cache
from r1jax.config import ModelConfig
from r1jax.engine.drafts import more_layers
from r1jax.engine.types import EngineOptions
from r1jax.errors import ConfigError
from r1jax.layers.expert_places import Places, arrange
from r1jax.placing import placements
from r1jax.sharding import Placement, device_bytes, local_bytes
from r1jax.target import Target
from r1jax.typing import PyTree


def cache_pages(
    config: ModelConfig,
    options: EngineOptions,
    dtype: str,
    target: Target,
    weights: int,
    share: float | None,
) -> int:
    """Returns each device's pages: what all its sequences need, if that fits.

    Args:
      config: The model.
      options: Its limits.
      dtype: Of the cache.
      target: What runs.
      weights: Bytes of the weights on each device.
      share: Of the memory beside them that the cache may take; None for the usual.

    Raises:
      ConfigError: It has no room for one sequence at full length.
    """
    on_cpu = jax.devices()[0].platform == "cpu"
    share = (0.1 if on_cpu else 0.9) if share is None else share
    if not 0 < share <= 1:
        raise ConfigError(
            f"memory_utilization is {share}",
            "it is a share of the free memory, above 0 and at most 1",
            "choose a value such as 0.5",
        )
    size, on = options.page_size, target.placement
    more = more_layers(options)
    page_bytes = cache.page_bytes(config, size, dtype, target, more)
    _, devices = cache.shares(config, target)
    each = -(-options.max_model_len // (size * devices))
    room = int(_free_bytes(weights, on) * share / page_bytes) - 1
    if room < each:
        raise ConfigError(
            f"the cache has room for {max(room, 0) * devices * size} tokens",
            f"one request may need {options.max_model_len}, at "
            f"{page_bytes // size} bytes each",
            "lower max_model_len, or raise memory_utilization (now "
            f"{share}) or the memory",
        )
    return min(each * options.max_num_seqs, room) + 1


def weight_bytes(
    config: ModelConfig, params: PyTree, target: Target, places: Mapping[str, Places]
) -> int:
    """Returns the bytes of loaded weights on each device, wherever they are now."""
    shapes = jax.eval_shape(lambda tree: arrange(tree, places), params)
    where = placements(config, shapes, target, places)
    if where is None:
        return sum(map(local_bytes, jax.tree.leaves(shapes)))
    return device_bytes(shapes, where)


def _free_bytes(weights: int, on: Placement | None) -> int:
    """Returns a device's memory less its weights.

    Not what happens to be free: the pool's size is part of every compiled step, and
    one that changes from start to start would find none of them in the cache.
    """
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        pages = os.sysconf("SC_PHYS_PAGES")
        total = pages * os.sysconf("SC_PAGE_SIZE")
        # All devices of a CPU share its memory.
        count = on.mesh.local_mesh.size if on else 1
        return max(total // count - weights, 0)
    limit = (device.memory_stats() or {}).get("bytes_limit", 0)
    return max(limit - weights, 0)
