"""Where a target wants parameters, and in which arrangement."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

from r1jax import model, parameters, quant, sharding
from r1jax.config import ModelConfig
from r1jax.layers import expert_places
from r1jax.layers.expert_places import Places
from r1jax.target import Target
from r1jax.typing import PyTree


def make_cast(
    config: ModelConfig, dtype: Any, target: Target
) -> Callable[[PyTree], PyTree]:
    """Returns a function that casts plain parameters, for a CPU in its arrangement.

    Args:
      config: The model.
      dtype: Of all but what is always float32.
      target: What they are for.
    """
    whole = parameters.abstract(config, dtype)

    def cast(params: PyTree) -> PyTree:
        like = {name: whole[name] for name in params}
        out = jax.tree.map(lambda x, y: x.astype(y.dtype), params, like)
        return model.for_cpu(out) if target.form == "cpu" else out

    return cast


def placed(
    config: ModelConfig, params: PyTree, target: Target, places: Mapping[str, Places]
) -> PyTree:
    """Puts parameters where a target wants them."""
    if target.form == "cpu":
        return model.for_cpu(params)
    params = expert_places.arrange(params, places)
    where = placements(config, params, target, places)
    if jax.tree.map(lambda leaf: getattr(leaf, "sharding", None), params) == where:
        return params  # loading put them there
    return sharding.put(params, where)


def placements(
    config: ModelConfig,
    params: PyTree,
    target: Target,
    places: Mapping[str, Places],
) -> PyTree:
    """Returns where a target wants each parameter; None for arrays on the host.

    Args:
      config: The model.
      params: The parameters, or their shapes, experts arranged.
      target: What they are for.
      places: Where experts go that do not lie in order.
    """
    if target.form == "cpu":
        return None
    if target.placement is None:
        single = SingleDeviceSharding(jax.devices()[0])
        return jax.tree.map(lambda _: single, params)
    mesh, rules = target.placement.mesh, target.placement.rules
    axes = parameters.logical_axes(config, quant.scheme_of(params))
    axes = {name: axes[name] for name in params}  # perhaps without the MTP layers
    axes = expert_places.arranged_axes(axes, places)
    return sharding.shardings(params, axes, mesh, rules)
