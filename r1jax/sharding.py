"""Where arrays lie: the logical axes, what each rule set does with them, the mesh.

Layers name logical axes; this module alone names mesh axes. It is stricter than Flax,
which leaves a misspelt axis whole, drops the second of two dimensions sent to one mesh
axis, and says nothing of sizes that do not divide: all three are refused here.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from r1jax.errors import ShardingError
from r1jax.typing import PyTree

# Every logical axis that a parameter can have.
AXES: Final = (
    "layers",
    "vocab",
    "embed",
    "embed_pair",
    "norm",
    "heads",
    "kv_heads",
    "head_dim",
    "q_latent",
    "latent",
    "gate_up",
    "mlp",
    "router",
    "experts",
    "expert_mlp",
)

MESH_AXES: Final = ("data", "tensor")

# A rule set sends logical axes to mesh axes; what it does not name stays whole.
RULES: Final[Mapping[str, Mapping[str, str]]] = {
    # Heads, feed-forward and vocabulary are cut, experts lie whole on one device each;
    # every device sees every token and the partial results are summed.
    "tensor": {
        "vocab": "tensor",
        "heads": "tensor",
        "kv_heads": "tensor",
        "mlp": "tensor",
        "experts": "tensor",
    },
}


def make_mesh(data: int, tensor: int) -> Mesh:
    """Arranges the first `data * tensor` devices as a mesh.

    Raises:
      ShardingError: There are fewer devices.
    """
    devices = jax.devices()
    if data * tensor > len(devices):
        raise ShardingError(
            f"a mesh of data {data} x tensor {tensor}",
            f"it needs {data * tensor} devices and there are {len(devices)}",
            "choose sizes whose product is at most that",
        )
    grid = np.array(devices[: data * tensor]).reshape(data, tensor)
    return Mesh(grid, MESH_AXES)


def spec(
    axes: Sequence[str], shape: Sequence[int], mesh: Mesh, rules: str
) -> PartitionSpec:
    """Resolves one array's logical axes.

    Raises:
      ShardingError: An axis is unknown, two dimensions go to one mesh axis, or a size
        does not divide; with the names and the numbers.
    """
    placed: list[str | None] = []
    for axis, size in zip(axes, shape, strict=True):
        if axis not in AXES:
            raise ShardingError(
                f"unknown logical axis {axis!r} in {tuple(axes)}",
                "Flax would leave that dimension whole and say nothing",
                f"use one of {', '.join(AXES)}, or add it to sharding.AXES",
            )
        target = RULES[rules].get(axis)
        if target is not None and target in placed:
            raise ShardingError(
                f"two dimensions of {tuple(axes)} go to the mesh axis {target!r}",
                f"the rule set {rules!r} sends both there, and one would be dropped",
                "change the rule of one of them",
            )
        if target is not None and size % mesh.shape[target]:
            raise ShardingError(
                f"axis {axis!r} of size {size} over {mesh.shape[target]} devices",
                f"{size} is not a multiple of {mesh.shape[target]}",
                f"choose a {target!r} size that divides {size}",
            )
        placed.append(target)
    return PartitionSpec(*placed)


def shardings(abstract: PyTree, axes: PyTree, mesh: Mesh, rules: str) -> PyTree:
    """Resolves a tree of shapes and a tree of logical axes like it."""

    def place(leaf: Any, names: tuple[str, ...]) -> NamedSharding:
        return NamedSharding(mesh, spec(names, leaf.shape, mesh, rules))

    return jax.tree.map(place, abstract, axes)


def pjit(
    function: Callable[..., Any],
    in_shardings: PyTree,
    out_shardings: PyTree = None,
    donate: Sequence[int] = (),
) -> Callable[..., Any]:
    """Compiles a function over a mesh; the one door to `jax.jit` with placements."""
    options: dict[str, Any] = {"in_shardings": in_shardings, "donate_argnums": donate}
    if out_shardings is not None:
        options["out_shardings"] = out_shardings
    return jax.jit(function, **options)


def device_bytes(abstract: PyTree, placements: PyTree) -> int:
    """Returns the bytes of a tree that lie on each device of a mesh."""

    def size(leaf: Any, placement: NamedSharding) -> int:
        shape = placement.shard_shape(leaf.shape)
        return math.prod(shape) * leaf.dtype.itemsize

    return sum(jax.tree.leaves(jax.tree.map(size, abstract, placements)))
