"""Routes are counted as the routers choose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import model
from r1jax.engine.simple import count_routes
from r1jax.errors import ConfigError, RequestError


@pytest.fixture
def biased(tiny_params):
    """The toy R1, whose first router cannot but choose experts 4 to 7."""
    params = jax.tree.map(lambda leaf: leaf, tiny_params("r1"))
    router = params["moe_layers"]["moe"]["router"]
    router["bias"] = jnp.zeros((2, 16)).at[0, 4:8].set(100)
    return params


@pytest.mark.parametrize("arrange", [lambda p: p, model.for_cpu], ids=["plain", "cpu"])
def test_every_token_counts_once_for_each_of_its_experts(tiny, biased, arrange):
    sequences = [[3, 5, 7], list(range(70))]  # padded to 64 and 128
    loads = count_routes(tiny("r1"), arrange(biased), sequences)
    assert loads.shape == (2, 16)
    assert loads[0].tolist() == [0] * 4 + [73] * 4 + [0] * 8
    assert loads[1].sum() == 73 * 4
    assert (loads[1] <= 73).all()
    assert np.count_nonzero(loads[1]) > 4


def test_what_has_no_routes_is_refused(tiny, tiny_params, biased):
    with pytest.raises(ConfigError, match="no routes to count"):
        count_routes(tiny("llama"), tiny_params("llama"), [[1]])
    with pytest.raises(RequestError, match="the prompt is empty"):
        count_routes(tiny("r1"), biased, [[]])
