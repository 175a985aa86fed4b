"""Parameters straight out of a checkpoint of tensors, without conversion."""

from typing import Any

import jax

from r1jax.typing import PyTree
from r1jax.weights.files import aligned
from r1jax.weights.filling import Filler
from r1jax.weights.leaves import Tensors, find, insert, plan


def load(
    source: Tensors, dtype: Any, *, mtp: bool = False, shardings: PyTree = None
) -> PyTree:
    """Reads all parameters into memory.

    Args:
      source: The checkpoint.
      dtype: Of all leaves but those that are always float32.
      mtp: Whether to read the multi-token-prediction layers too.
      shardings: A tree of shardings like the parameters (more is allowed); each leaf
        goes to its devices as soon as it is read, so that the host holds one at a time.

    Returns:
      The tree of parameters: numpy arrays, or jax arrays where shardings are given.

    Raises:
      CheckpointError: As said in `Filler.fill`.
    """
    tree: dict[str, Any] = {}
    with Filler(source) as filler:
        for leaf in plan(source, dtype, mtp):
            array = aligned(leaf.shape, leaf.dtype)
            for unit in leaf.units:
                filler.fill(unit, array[unit.index])
            filler.drain()
            if shardings is not None:
                array = jax.device_put(array, find(shardings, leaf.path))
            insert(tree, leaf.path, array)
    return tree
