"""The shape letters, the array types, and the decorator that checks them.

One letter has one meaning in annotations, einsums and prose:

    B rows of a batch      T query tokens        S context tokens
    D model width          L layers              V vocabulary
    N query heads          K key/value heads     G query heads per K (N = K G)
    H head width without position (or all of it) R head width that rotates
    W head width of values Q query latent width  C key/value latent width
    F feed-forward width   E routed experts      X experts chosen per token
    Y expert groups        M rows after dispatch P pages in the pool
    J pages of a sequence  Z tokens in a page
"""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from beartype import beartype
from jaxtyping import Bool, Float, Int, UInt32, jaxtyped

Array = jax.Array
PyTree = Any
_F = TypeVar("_F", bound=Callable[..., Any])

LETTERS = "BTSDLVNKGHRWQCFEXYMPJZ"


def typechecked(function: _F) -> _F:
    """Checks a function's array annotations when it is traced.

    The check runs once per trace, never per call of a compiled function. Set the
    environment variable R1JAX_TYPECHECK=0 to switch it off.
    """
    if os.environ.get("R1JAX_TYPECHECK", "1") == "0":
        return function
    checked: _F = jaxtyped(typechecker=beartype)(function)
    return checked


__all__ = [
    "LETTERS",
    "Array",
    "Bool",
    "Float",
    "Int",
    "PyTree",
    "UInt32",
    "typechecked",
]
