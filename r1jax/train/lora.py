"""Low-rank adapters (arXiv 2106.09685): W + alpha / rank * A B, with W frozen."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from r1jax.errors import ConfigError
from r1jax.quant import inputs_of
from r1jax.typing import Array, PyTree


@dataclass(frozen=True)
class Lora:
    """What is adapted.

    Attributes:
      rank: Columns of A and rows of B; 0 trains all parameters instead.
      alpha: The product counts alpha / rank.
      kernels: Names of the projections, such as q, v, gate_up, down, experts.
    """

    rank: int
    alpha: float
    kernels: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuses to adapt nothing.

        Raises:
          ConfigError: Names the setting.
        """
        if self.rank and not self.kernels:
            raise ConfigError(
                f"lora.rank is {self.rank} and lora.kernels is empty",
                "no projection would be adapted, and nothing learnt",
                "name some, such as lora.kernels=q,v,gate_up,down",
            )


def refuse_with_adapters(adapters: Lora | None, moved: Mapping[str, bool]) -> None:
    """Refuses settings that move what adapters leave frozen.

    Args:
      adapters: None where all parameters learn.
      moved: By the settings' names, whether they are in use.

    Raises:
      ConfigError: Names the setting.
    """
    for name, there in moved.items():
        if adapters is not None and there:
            raise ConfigError(
                f"{name} with adapters (lora.rank {adapters.rank})",
                "it moves parameters that adapters leave frozen",
                "leave it out, or set lora.rank to 0",
            )


def init(params: PyTree, settings: Lora, key: Array) -> PyTree:
    """Makes adapters that change nothing yet: A is random, B is zero.

    Returns:
      For the path of each adapted leaf, joined by slashes, "a" [*stacked, inputs, rank]
      and "b" [*stacked, rank, outputs].

    Raises:
      ConfigError: The model has no projection of one of the names.
    """
    leaves = {
        path: leaf
        for path, leaf in _leaves(params).items()
        if _name(path) in settings.kernels
    }
    found = {_name(path) for path in leaves}
    for name in settings.kernels:
        if name not in found:
            known = sorted({_name(p) for p in _leaves(params)})
            raise ConfigError(
                f"lora.kernels names {name!r}",
                f"the model's projections are {', '.join(known)}",
                "name some of those",
            )
    keys = jax.random.split(key, len(leaves))
    adapters = {}
    for (path, leaf), each in zip(leaves.items(), keys, strict=True):
        stacked, inputs, outputs = _matrix(path, leaf)
        shape = (*stacked, inputs, settings.rank)
        adapters[path] = {
            "a": jax.random.normal(each, shape) * inputs**-0.5,
            "b": jnp.zeros((*stacked, settings.rank, outputs)),
        }
    return adapters


def merge(params: PyTree, adapters: PyTree, settings: Lora) -> PyTree:
    """Returns parameters with the adapters added, in the parameters' dtypes."""
    scale = settings.alpha / settings.rank

    def one(path: Any, leaf: Array) -> Array:
        adapter = adapters.get("/".join(k.key for k in path))
        if adapter is None:
            return leaf
        change = jnp.matmul(adapter["a"], adapter["b"]) * scale
        return (leaf + change.reshape(leaf.shape)).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(one, params)


def _leaves(params: PyTree) -> dict[str, Any]:
    """Returns the layers' matrices by path."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = [k.key for k in path]
        kernel = names[-1] == "kernel" or names[-2] == "experts"
        if kernel and names[0].endswith("_layers") and names[-2] != "router":
            found["/".join(names)] = leaf
    return found


def _name(path: str) -> str:
    return path.split("/")[-2]


def _matrix(path: str, leaf: Any) -> tuple[tuple[int, ...], int, int]:
    """Returns the stacked axes, the inputs and the outputs of a leaf."""
    name = _name(path)
    stacked = leaf.shape[: 2 if name == "experts" else 1]
    rest = leaf.shape[len(stacked) :]
    count = inputs_of(name)
    return stacked, math.prod(rest[:count]), math.prod(rest[count:])
