"""Compiles a function for a TPU that is not there, with the real compiler.

Needs the `libtpu` wheel (part of the `test` extra on Linux) and no TPU.
"""

import functools
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Said before libtpu is loaded: there is no metadata server to ask, and another test
# process may hold the lock.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
TOPOLOGIES = {
    "v5e": "v5e:2x2",
    "v5p": "v5p:2x2x1",
    "v6e": "v6e:2x2",
    "v7x": "tpu7x:2x2x1",
}

needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="the TPU compiler is not installed: pip install libtpu",
)


@functools.cache
def devices(topology: str) -> list[Any]:
    """Returns the devices of a described slice, such as v5e:2x2."""
    os.environ.update(_ENVIRONMENT)
    return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices


def compile_for(
    chip: str,
    function: Callable[..., Any],
    *shapes: Any,
    donate: tuple[int, ...] = (),
) -> Any:
    """Compiles a function of `jax.ShapeDtypeStruct`s for one device of a generation."""
    mesh = Mesh(np.array(devices(TOPOLOGIES[chip])[:1]), ("x",))
    whole = NamedSharding(mesh, PartitionSpec())
    placed = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=whole), shapes
    )
    with jax.set_mesh(mesh):
        traced = jax.jit(function, donate_argnums=donate).trace(*placed)
        return traced.lower(lowering_platforms=("tpu",)).compile()
