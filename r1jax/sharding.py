"""Where arrays lie: the logical axes, what each rule set does with them, the mesh.

Layers name logical axes; this module alone names mesh axes. It is stricter than Flax,
which leaves a misspelt axis whole, drops the second of two dimensions sent to one mesh
axis, and says nothing of sizes that do not divide: all three are refused here.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from r1jax.errors import ShardingError
from r1jax.typing import PyTree

# Every logical axis that a parameter can have, and those of a step's arrays: its flat
# tokens, its rows (sequences), the cache's pages (of heads' keys and values, or of
# latents, which have no heads to cut).
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
    "tokens",
    "rows",
    "pages",
    "latent_pages",
)

MESH_AXES: Final = ("data", "tensor")

_ALL: Final = ("data", "tensor")

# A rule set sends logical axes to mesh axes; what it does not name stays whole.
RULES: Final[Mapping[str, Mapping[str, str | tuple[str, ...]]]] = {
    # For a few sequences: every device works on all of them. Heads, feed-forward and
    # vocabulary are cut over all devices, latents along the sequence.
    "latency": {
        "latent_pages": _ALL,
        "vocab": _ALL,
        "heads": _ALL,
        "kv_heads": _ALL,
        "mlp": _ALL,
        "experts": _ALL,
    },
    # For many: sequences and their cache are cut over data, heads and feed-forward over
    # tensor, latents along the sequence over tensor too.
    "throughput": {
        "tokens": "data",
        "rows": "data",
        "pages": "data",
        "latent_pages": _ALL,
        "vocab": "tensor",
        "heads": "tensor",
        "kv_heads": "tensor",
        "mlp": "tensor",
        "experts": _ALL,
    },
    # Parameters are cut over data as well, along the model's width, and gathered where
    # they are used; there is no cache.
    "training": {
        "tokens": "data",
        "rows": "data",
        "embed": "data",
        "vocab": "tensor",
        "heads": "tensor",
        "kv_heads": "tensor",
        "mlp": "tensor",
        "experts": "tensor",
    },
}
STRATEGIES: Final = ("latency", "throughput")  # those that serve; the last is usual


def make_mesh(data: int, tensor: int) -> Mesh:
    """Arranges the first `data * tensor` devices as a mesh.

    `tensor` varies fastest, so that it stays within a host where it can.

    Raises:
      ShardingError: There are fewer devices; or more, in a program of several
        processes, each of which must hold a part.
    """
    devices = jax.devices()
    if data * tensor > len(devices):
        raise ShardingError(
            f"a mesh of data {data} x tensor {tensor}",
            f"it needs {data * tensor} devices and there are {len(devices)}",
            "choose sizes whose product is at most that",
        )
    if data * tensor < len(devices) and jax.process_count() > 1:
        raise ShardingError(
            f"a mesh of data {data} x tensor {tensor}",
            f"{jax.process_count()} processes have {len(devices)} devices, and none "
            "may be left without a part",
            f"choose sizes whose product is {len(devices)}",
        )
    return arrange(devices[: data * tensor], data, tensor)


def arrange(devices: Sequence[Any], data: int, tensor: int) -> Mesh:
    """Arranges just these devices; those of a TPU slice, as JAX does by its wiring."""
    if devices[0].platform == "tpu" and len(devices) > 1:
        grid = mesh_utils.create_device_mesh(
            (data, tensor), devices, allow_split_physical_axes=True
        )
    else:
        grid = np.array(devices).reshape(data, tensor)
    return Mesh(grid, MESH_AXES)


def spec(
    axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh, rules: str
) -> PartitionSpec:
    """Resolves one array's logical axes; None is a dimension that stays whole.

    Raises:
      ShardingError: An axis is unknown, two dimensions go to one mesh axis, or a size
        does not divide; with the names and the numbers.
    """
    placed: list[tuple[str, ...]] = []
    for axis, size in zip(axes, shape, strict=True):
        if axis is not None and axis not in AXES:
            raise ShardingError(
                f"unknown logical axis {axis!r} in {tuple(axes)}",
                "Flax would leave that dimension whole and say nothing",
                f"use one of {', '.join(AXES)}, or add it to sharding.AXES",
            )
        targets = mesh_axes(axis, rules)
        for target in targets:
            if any(target in others for others in placed):
                raise ShardingError(
                    f"two dimensions of {tuple(axes)} go to the mesh axis {target!r}",
                    f"the rule set {rules!r} sends both there, and one would be "
                    "dropped",
                    "change the rule of one of them",
                )
        devices = math.prod(mesh.shape[target] for target in targets)
        if size % devices:
            raise ShardingError(
                f"axis {axis!r} of size {size} over {devices} devices",
                f"{size} is not a multiple of {devices}",
                f"choose sizes of {' and '.join(map(repr, targets))} whose product "
                f"divides {size}",
            )
        placed.append(targets)
    return PartitionSpec(*[targets or None for targets in placed])


def mesh_axes(axis: str | None, rules: str) -> tuple[str, ...]:
    """Returns the mesh axes that a rule set cuts a logical axis over, major first."""
    found = () if axis is None else RULES[rules].get(axis, ())
    return (found,) if isinstance(found, str) else found


@dataclass(frozen=True)
class Placement:
    """A mesh and the rule set that is followed on it; hashable, for static use."""

    mesh: Mesh
    rules: str

    def spec(self, axes: Sequence[str | None], shape: Sequence[int]) -> PartitionSpec:
        """Resolves one array's logical axes; see `spec`."""
        return spec(axes, shape, self.mesh, self.rules)

    def sharding(
        self, axes: Sequence[str | None], shape: Sequence[int]
    ) -> NamedSharding:
        """Resolves one array's logical axes on the mesh; see `spec`."""
        return NamedSharding(self.mesh, self.spec(axes, shape))

    def mesh_axes(self, axis: str) -> tuple[str, ...]:
        """Returns the mesh axes that a logical axis is cut over."""
        return mesh_axes(axis, self.rules)

    def devices(self, axis: str) -> int:
        """Returns over how many devices a logical axis is cut."""
        return math.prod(self.mesh.shape[name] for name in self.mesh_axes(axis))

    @property
    def segment_axes(self) -> tuple[str, ...]:
        """The mesh axes over which latents are cut along their sequence."""
        rows = self.mesh_axes("rows")
        return tuple(n for n in self.mesh_axes("latent_pages") if n not in rows)

    def on_each(
        self, function: Callable[..., Any], inputs: PyTree, outputs: PyTree
    ) -> Callable[..., Any]:
        """Runs a function on every device's own part of its arguments.

        Args:
          function: Sees only what lies on one device.
          inputs: A `PartitionSpec` for each array of the arguments.
          outputs: The same for its results.
        """
        return jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=inputs,
            out_specs=outputs,
            check_vma=False,  # kernels do not say over what their results vary
        )


def shardings(abstract: PyTree, axes: PyTree, mesh: Mesh, rules: str) -> PyTree:
    """Resolves a tree of shapes and a tree of logical axes like it."""

    def place(leaf: Any, names: tuple[str, ...]) -> NamedSharding:
        return NamedSharding(mesh, spec(names, leaf.shape, mesh, rules))

    return jax.tree.map(place, abstract, axes)


def put(tree: PyTree, places: PyTree) -> PyTree:
    """Moves arrays to their places on a mesh, of one process or of many.

    Args:
      tree: Arrays that every process has whole, and equal, or that lie there already.
      places: A sharding for each of them, or one for all; None is the default device.
    """
    if all(where.is_fully_addressable for where in jax.tree.leaves(places)):
        return jax.device_put(tree, places)

    def place(leaf: Any, where: NamedSharding) -> jax.Array:
        if isinstance(leaf, jax.Array) and leaf.sharding == where:
            return leaf
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(
            whole.shape, where, lambda index: whole[index]
        )

    return jax.tree.map(place, tree, jax.tree.broadcast(places, tree))


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


def local_bytes(leaf: Any) -> int:
    """Returns the bytes of an array, or of its shape, on each device."""
    where = leaf.sharding
    shape = leaf.shape if where is None else where.shard_shape(leaf.shape)
    return math.prod(shape) * jax.dtypes.itemsize_bits(leaf.dtype) // 8


def device_bytes(abstract: PyTree, placements: PyTree) -> int:
    """Returns the bytes of a tree that lie on each device of a mesh."""

    def size(leaf: Any, where: Any) -> int:
        return local_bytes(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where))

    return sum(jax.tree.leaves(jax.tree.map(size, abstract, placements)))
