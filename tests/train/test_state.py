"""Steps of learning: they reach their aim, and the ways to take them agree."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r1jax.errors import ConfigError
from r1jax.train import lora, optimizer, state
from r1jax.train.batch import Example, pack
from r1jax.train.forward import score
from r1jax.train.loss import Loss, balance_bias, part_of_loss, target_weights

LOSS = Loss("float32", False, True, 0.0, 0.0, 1.0, 0.0, 0.001, steps=60)
FALLS = Loss("float32", False, False, 0.3, 0.1, 0.5, 0.0, 0.001, steps=60)


def settings(name="adamw", steps=60, rate=0.01):
    return optimizer.Optimizer(name, rate, 0.01, 0.1, 5, steps, 0.9, 0.99, 0.0, 1.0)


def batch(rng, parts=1, rows=1):
    examples = [
        Example(list(map(int, rng.integers(0, 512, 14))), [0.0] * 4 + [1.0] * 10)
        for _ in range(parts * rows)
    ]
    packed = pack(examples, 16, parts * rows)
    return jax.tree.map(lambda a: jnp.asarray(a).reshape(parts, rows, 16), packed)


def train(config, params, packed, steps, choice, loss=LOSS):
    tools = optimizer.build(choice)
    now = state.create(jax.tree.map(jnp.copy, params), tools)
    step = jax.jit(state.make_step(config, loss, tools), donate_argnums=0)
    for _ in range(steps):
        now, numbers = step(now, packed)
    return now, numbers


@pytest.mark.parametrize(
    ("family", "name"),
    [pytest.param("r1", "muon", marks=pytest.mark.slow), ("qwen2", "adamw")],
)
def test_one_batch_is_learnt_by_heart(family, name, tiny, tiny_params, rng):
    config, params = tiny(family), tiny_params(family)
    choice = settings(name, 80, 0.02 if name == "muon" else 0.01)
    _, numbers = train(config, params, batch(rng), 80, choice)
    assert numbers["loss"] < 1e-3
    assert numbers["accuracy"] == pytest.approx(1)


def test_parts_of_a_batch_add_up_to_all_at_once(tiny, tiny_params, rng):
    config, params = tiny("qwen2"), tiny_params("qwen2")
    whole = batch(rng, 1, 4)
    parts = jax.tree.map(lambda a: a.reshape(2, 2, 16), whole)
    tools = optax.sgd(0.1)  # Adam makes much of rounding where slopes are near 0
    step = jax.jit(state.make_step(config, LOSS, tools))
    found = [step(state.create(params, tools), some) for some in (whole, parts)]
    (a, _), (b, _) = found
    for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
        np.testing.assert_allclose(x, y, atol=2e-6)
    assert found[0][1]["loss"] == pytest.approx(float(found[1][1]["loss"]), abs=1e-5)


def test_adapters_begin_as_the_base_and_merge_exactly(tiny, tiny_params, rng):
    config, params = tiny("qwen2"), tiny_params("qwen2")
    choice = lora.Lora(4, 8.0, ("q", "v", "down"))
    adapters = lora.init(params, choice, jax.random.key(0))
    assert len(adapters) == 3
    for a, b in zip(
        jax.tree.leaves(lora.merge(params, adapters, choice)),
        jax.tree.leaves(params),
        strict=True,
    ):
        assert (a == b).all()
    tools = optimizer.build(settings())
    now = state.create(adapters, tools, params)
    packed = batch(rng)
    step = jax.jit(state.make_step(config, LOSS, tools, choice))
    losses = []
    for _ in range(12):
        now, numbers = step(now, packed)
        losses.append(float(numbers["loss"]))
    assert losses[-1] < losses[0] - 0.5
    # Adapters beside the projection, as the paper draws them, give the merged product.
    pair = now.params["dense_layers/mlp/down/kernel"]
    whole = state.whole_params(now, choice)["dense_layers"]["mlp"]["down"]["kernel"]
    x = jnp.asarray(rng.normal(size=(3, whole.shape[1])), jnp.float32)
    base = params["dense_layers"]["mlp"]["down"]["kernel"]
    beside = x @ base[0] + (x @ pair["a"][0]) @ pair["b"][0] * 2.0
    np.testing.assert_allclose(x @ whole[0], beside, atol=1e-4)


def test_the_bias_moves_loads_together(tiny, tiny_params, rng):
    config, params = tiny("r1"), tiny_params("r1")
    packed = jax.tree.map(functools.partial(jnp.squeeze, axis=0), batch(rng, 1, 16))
    loads_of = jax.jit(lambda p: score(config, p, packed).loads)
    before = loads_of(params)
    for _ in range(30):
        params = balance_bias(params, {"moe_layers": loads_of(params)}, 0.01)
    assert loads_of(params).std() < 0.5 * before.std()


def test_a_bias_is_moved_by_the_sign_alone(tiny_params):
    params = tiny_params("r1")
    loads = jnp.asarray([[3.0, 1.0] + [2.0] * 14] * 2)
    both = {"moe_layers": loads, "mtp": loads[:1, ::-1]}
    moved = balance_bias(params, both, 0.1)
    bias = moved["moe_layers"]["moe"]["router"]["bias"]
    np.testing.assert_allclose(bias[:, :3], [[-0.1, 0.1, 0.0]] * 2)
    ahead = moved["mtp"]["block"]["moe"]["router"]["bias"]
    np.testing.assert_allclose(ahead[0, -3:], [0.0, 0.1, -0.1])


def test_a_bias_slows_down_evenly():
    falls = dataclasses.replace(LOSS, bias_falls_from=0.5)
    speeds = [float(falls.bias_speed_at(jnp.int32(done))) for done in (0, 30, 45, 60)]
    np.testing.assert_allclose(speeds, [0.001, 0.001, 0.0005, 0.0], atol=1e-9)
    assert LOSS.bias_speed_at(jnp.int32(60)) == 0.001


def test_the_prediction_layer_is_tallied_and_counts_less_later(tiny, tiny_params, rng):
    config, packed = tiny("r1"), jax.tree.map(lambda a: a[0], batch(rng))
    totals = target_weights(packed)
    run = jax.jit(lambda p, n: part_of_loss(config, FALLS, p, packed, totals, 1, n))
    early, late = (run(tiny_params("r1"), jnp.int32(done)) for done in (29, 30))
    loads = early[1]["loads"]
    assert {name: some.shape for name, some in loads.items()} == {
        "moe_layers": (2, 16),
        "mtp": (1, 16),
    }
    assert loads["mtp"].sum() == 4 * 13
    fallen = early[0] - late[0]
    assert fallen == pytest.approx(0.2 * float(early[1]["mtp_loss"]), rel=1e-4)


@pytest.mark.slow
def test_a_step_balances_the_prediction_layer_too(tiny, tiny_params, rng):
    config, params = tiny("r1"), tiny_params("r1")
    tools = optax.sgd(0.1)
    step = jax.jit(state.make_step(config, FALLS, tools))
    begin, packed = state.create(params, tools), batch(rng, 1, 2)
    after, _ = step(begin, packed)
    for group in (after.params["moe_layers"], after.params["mtp"]["block"]):
        bias = np.abs(group["moe"]["router"]["bias"])
        assert (bias > 0).mean() > 0.5
        np.testing.assert_allclose(bias[bias > 0], 0.001, rtol=1e-4)
    heads = [
        step(begin.replace(step=jnp.int32(done)), packed)[0].params["mtp"]["lm_head"]
        for done in (29, 30)
    ]
    before = params["mtp"]["lm_head"]["kernel"]
    early, late = (head["kernel"] - before for head in heads)
    assert np.abs(early).max() > 1e-4
    np.testing.assert_allclose(late, early / 3, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mtp_weight": -0.1}, "mtp_weight is -0.1"),
        ({"mtp_weight": 0.3, "mtp_later_from": 1.5}, "a share of the steps"),
        ({"mtp_weight": 0.3, "mtp_weight_later": 0.1}, "would be ignored"),
        ({"mtp_weight_later": 0.1, "mtp_later_from": 0.5}, "would be ignored"),
        ({"bias_falls_from": 1.1}, "a share of the steps"),
        ({"bias_speed": 0.0, "bias_falls_from": 0.5}, "cannot become slower"),
    ],
)
def test_weights_that_would_not_count_are_refused(changes, says):
    with pytest.raises(ConfigError, match=says):
        dataclasses.replace(LOSS, **changes)


def test_warm_up_is_not_left_out():
    with pytest.raises(Exception, match="0 warm-up steps of 10"):
        optimizer.Optimizer("adamw", 1.0, 1.0, 0.1, 0, 10, 0.9, 0.99, 0.0, 1.0)
