"""Every device gets its own slice of a checkpoint, and nothing is read twice."""

import jax
import pytest

from r1jax.weights import open_source

CHUNKED = "deepseek_yarn"


@pytest.mark.usefixtures("small_units")
@pytest.mark.parametrize("kind", ["hf", "orbax"])
def test_each_device_gets_its_own_slice(kind, converted, same, shardings_of):
    source, output = converted(CHUNKED, "bfloat16")
    opened = open_source(source if kind == "hf" else output)
    shardings = shardings_of(opened.config)
    params = opened.params("bfloat16", shardings=shardings)
    assert opened.kind == kind
    assert jax.tree.map(lambda leaf: leaf.sharding, params) == shardings
    down = params["moe_layers"]["moe"]["experts"]["down"]
    assert {part.data.shape[1] for part in down.addressable_shards} == {4}
    same(params, open_source(source).params("bfloat16"))
