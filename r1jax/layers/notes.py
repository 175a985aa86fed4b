"""What layers tell of themselves to who asks (`r1jax.inside`), and to nobody else."""

import flax.linen as nn

from r1jax.typing import Array

KIND = "inside"


def asked(layer: nn.Module) -> bool:
    """Tells whether anybody asks; where nobody does, notes need not be computed."""
    return layer.is_mutable_collection(KIND)


def note(layer: nn.Module, **arrays: Array) -> None:
    """Keeps arrays under their names; does nothing where nobody asks."""
    for name, array in arrays.items():
        layer.sow(KIND, name, array, lambda _, new: new, lambda: None)
