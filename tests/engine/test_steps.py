"""What a compiled step holds."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from engine.test_engine import CONFIG
from r1jax import cache, parameters
from r1jax.cache import Geometry
from r1jax.engine.programs import Programs, state_shapes
from r1jax.target import PLAIN


@pytest.mark.parametrize("chunk", [256, 250])
def test_a_judged_chunk_never_has_all_its_logits_at_once(chunk):
    config = dataclasses.replace(CONFIG, vocab_size=32000)
    state = (
        cache.abstract_pools(config, 40, 8, jnp.float32),
        *state_shapes(config, 2, None),
    )
    shapes = (parameters.abstract(config, jnp.float32), state)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    weights, state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), shapes
    )
    programs = Programs(config, PLAIN, 40, weights, state)
    step, _ = programs.compile(Geometry(2, 1, chunk), scores=True)
    assert step.memory_analysis().temp_size_in_bytes < chunk * 32000 * 4 / 2
