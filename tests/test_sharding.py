"""Any mesh gives the one-device logits, and what cannot be placed is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import model, parameters, sharding
from r1jax.errors import ShardingError
from r1jax.presets import NAMES, preset

TOKENS = np.arange(3, 40) % 90


@pytest.fixture(scope="module", params=["r1", "qwen2"])
def placed(request, tiny, tiny_params):
    config = tiny(request.param)
    return config, tiny_params(request.param), parameters.logical_axes(config)


@pytest.mark.parametrize(
    ("data", "tensor", "rules"),
    [
        (1, 2, "throughput"),
        (2, 2, "training"),
        pytest.param(4, 1, "training", marks=pytest.mark.slow),
    ],
)
def test_any_mesh_gives_the_one_device_logits(placed, data, tensor, rules):
    config, params, axes = placed

    def run(params, tokens):
        return model.logits(params, model.forward(config, params, tokens))

    tokens = jnp.asarray(TOKENS)
    alone = jax.jit(run)(params, tokens)
    mesh = sharding.make_mesh(data, tensor)
    where = sharding.shardings(params, axes, mesh, rules)
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    cut = jax.device_put(params, where)
    together = sharding.pjit(run, (where, whole))(cut, tokens)
    np.testing.assert_allclose(together, alone, atol=2e-5 * np.abs(alone).max())
    assert len(together.devices()) == data * tensor


def test_training_s_rules_give_one_device_s_gradients(tiny, tiny_params):
    config, params = tiny("qwen2"), tiny_params("qwen2")

    def loss(params, tokens):
        hidden = model.forward(config, params, tokens[:-1])
        words = jax.nn.log_softmax(model.logits(params, hidden))
        return -words[jnp.arange(36), tokens[1:]].mean()

    tokens, run = jnp.asarray(TOKENS[:37]), jax.value_and_grad(loss)
    alone, wanted = jax.jit(run)(params, tokens)
    mesh = sharding.make_mesh(2, 2)
    axes = parameters.logical_axes(config)
    where = sharding.shardings(params, axes, mesh, "training")
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    together, found = sharding.pjit(run, (where, whole), (whole, where))(
        jax.device_put(params, where), tokens
    )
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    for right, gradient in zip(*map(jax.tree.leaves, (wanted, found)), strict=True):
        close = 1e-4 * max(np.abs(right).max(), 1e-6)
        np.testing.assert_allclose(gradient, right, atol=close)


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_can_be_placed(name):
    config = preset(name)
    abstract, axes = parameters.abstract(config), parameters.logical_axes(config)
    mesh = sharding.make_mesh(1, 2)
    where = sharding.shardings(abstract, axes, mesh, "throughput")
    total = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract))
    assert total / 2 <= sharding.device_bytes(abstract, where) < total


def test_a_misspelt_axis_is_refused():
    with pytest.raises(ShardingError, match="unknown logical axis 'expert'"):
        sharding.spec(("expert",), (8,), sharding.make_mesh(1, 2), "throughput")


def test_two_dimensions_on_one_mesh_axis_are_refused():
    with pytest.raises(ShardingError, match="two dimensions"):
        sharding.spec(("heads", "mlp"), (8, 8), sharding.make_mesh(1, 2), "throughput")


def test_a_size_that_does_not_divide_is_refused_with_numbers():
    with pytest.raises(ShardingError, match="size 9 over 2 devices"):
        sharding.spec(("heads",), (9,), sharding.make_mesh(1, 2), "throughput")


def test_a_mesh_larger_than_the_machine_is_refused():
    with pytest.raises(ShardingError, match="data 64 x tensor 64"):
        sharding.make_mesh(64, 64)


def test_a_process_may_not_be_left_without_devices(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    sharding.make_mesh(2, 4)
    with pytest.raises(ShardingError, match="none may be left without a part"):
        sharding.make_mesh(1, 4)


@pytest.mark.parametrize("whole", [True, False], ids=["one place", "a place each"])
def test_put_gives_each_device_its_part(whole):
    mesh = sharding.make_mesh(1, 2)
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("tensor"))
    tree = {"a": np.arange(6.0), "b": jnp.ones((4, 3))}
    placed = sharding.put(tree, place if whole else {"a": place, "b": place})
    for name, leaf in tree.items():
        np.testing.assert_array_equal(placed[name], leaf)
        assert placed[name].sharding == place
