"""Experts are spread by how busy they are, and every token finds one of its copies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax import parameters, quant
from r1jax.errors import ConfigError
from r1jax.layers import expert_places
from r1jax.layers.expert_places import balance, slots, to_slots

CHECKED = settings(max_examples=60, derandomize=True, deadline=None)


@st.composite
def cases(draw):
    """Loads of two layers, devices, and copies that they have room for."""
    experts, devices = draw(st.integers(1, 24)), draw(st.sampled_from([1, 2, 3, 4, 8]))
    most = experts * (devices - 1)
    redundant = draw(st.integers(0, min(most, 40)))
    load = st.one_of(st.just(0), st.integers(0, 10), st.integers(0, 10**6))
    rows = st.lists(load, min_size=experts, max_size=experts)
    return np.array([draw(rows), draw(rows)]), devices, redundant


def fullest(loads, places):
    """Returns what each layer's fullest device gets, and the mean."""
    by_device = np.stack(
        [
            (load / np.bincount(layer.ravel()))[layer].sum(1)
            for load, layer in zip(loads, places, strict=True)
        ]
    )
    return by_device.max(1), by_device.mean(1)


def in_order(layers, experts, devices):
    return np.tile(np.arange(experts), (layers, 1)).reshape(layers, devices, -1)


@CHECKED
@given(cases())
def test_every_expert_has_a_slot_and_none_two_on_one_device(case):
    loads, devices, redundant = case
    experts = loads.shape[1]
    places = balance(loads, devices, redundant)
    each = -(-(experts + redundant) // devices)
    assert places.shape == (2, devices, each)
    for layer in places:
        assert set(layer.ravel()) == set(range(experts))
        assert all(len(set(device)) == each for device in layer)
    np.testing.assert_array_equal(places, balance(loads, devices, redundant))


@CHECKED
@given(cases())
def test_own_slots_are_spread_evenly(case):
    """So that few tokens, which go to them, wait for no device that reads more."""
    loads, devices, redundant = case
    places = balance(loads, devices, redundant)
    for own in slots(places)[:, :, 0]:
        counts = np.bincount(own // places.shape[2], minlength=devices)
        assert counts.max() - counts.min() <= 1


@CHECKED
@given(cases())
def test_without_copies_no_device_is_fuller_than_in_order(case):
    loads, devices, _ = case
    experts = loads.shape[1] // devices * devices
    if not experts:
        return
    loads = loads[:, :experts]
    most, _ = fullest(loads, balance(loads, devices))
    before, _ = fullest(loads, in_order(2, experts, devices))
    assert (most <= before * (1 + 1e-5) + 1e-5).all()


@pytest.mark.parametrize("redundant", [0, 8, 32, 64])
@pytest.mark.parametrize("exponent", [0.3, 0.6, 1.0])
def test_copies_even_out_skewed_loads(rng, redundant, exponent):
    """Zipf's law over 256 experts in random order, on 32 devices."""
    ranks = np.stack([rng.permutation(256) for _ in range(4)])
    loads = 1e6 / (1 + ranks) ** exponent
    before, mean = fullest(loads, in_order(4, 256, 32))
    after, _ = fullest(loads, balance(loads, 32, redundant))
    assert (after < before).all()
    if redundant == 64:
        assert (after < 1.1 * mean).all()


def test_more_copies_never_lift_the_largest_share(rng):
    loads = rng.zipf(1.5, (1, 32)).astype(float)
    shares = []
    for redundant in range(0, 64, 8):
        copies = np.bincount(balance(loads, 8, redundant)[0].ravel())
        shares.append((loads[0] / copies).max())
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[-1]


def test_slots_that_even_experts_leave_free_hold_copies():
    """Nobody is idle: six experts on four devices, four on eight."""
    six = balance(np.ones((1, 6)), 4)[0]
    assert six.shape == (4, 2)
    assert sorted(np.bincount(six.ravel())) == [1, 1, 1, 1, 2, 2]
    four = balance(np.ones((1, 4)), 8)[0]
    assert list(np.bincount(four.ravel())) == [2, 2, 2, 2]


def test_slots_name_each_expert_s_own_and_its_copies():
    """The second slot of the first device is a copy, that of the last device is not."""
    table = slots(np.array([[[0, 2], [2, 0], [1, 0]], [[1, 2], [0, 1], [2, 1]]]))
    assert table.tolist() == [
        [[0, 3, 5], [4, -1, -1], [2, 1, -1]],
        [[2, -1, -1], [0, 3, 5], [4, 1, -1]],
    ]
    busy = balance(np.array([[10, 1, 1, 10, 1, 1]]), 4)
    assert busy.tolist() == [[[0, 1], [2, 3], [4, 0], [5, 3]]]
    assert slots(busy)[0, :, 0].tolist() == [0, 1, 2, 3, 4, 6]


def test_copies_take_turns_and_weights_stay():
    table = jnp.int32([[0, 2, 5], [1, 3, -1], [4, -1, -1]])
    chosen = jnp.int32([[0, 1], [0, 1], [0, 2], [0, 1]])
    weights = jnp.arange(8.0).reshape(4, 2)
    found, kept = to_slots((chosen, weights), table, share=True)
    assert found.tolist() == [[0, 1], [2, 3], [5, 4], [0, 3]]
    np.testing.assert_array_equal(kept, weights)
    found, kept = to_slots((chosen, weights), table, share=False)
    assert found.tolist() == [[0, 1], [0, 1], [0, 4], [0, 1]]
    np.testing.assert_array_equal(kept, weights)


LOADS = np.array([[1] * 15 + [100], [50] + [1] * 15])


def test_experts_in_order_need_no_table(tiny):
    config = tiny("r1")
    assert expert_places.plan_places(config, 4) == {}
    assert expert_places.plan_places(tiny("qwen2"), 4) == {}
    assert set(expert_places.plan_places(config, 3)) == {"moe_layers", "mtp"}
    assert set(expert_places.plan_places(config, 4, 0, LOADS)) == {"moe_layers"}


@pytest.mark.parametrize(
    ("family", "devices", "copies", "loads", "why"),
    [
        ("qwen2", 4, 2, None, "the model is dense"),
        ("r1", 1, 0, LOADS, "one device holds all experts"),
        ("r1", 4, 2, None, "nothing says which experts are busy"),
        ("r1", 4, 49, LOADS, "16 experts on each device are 0 to 48 copies"),
        ("r1", 4, -1, LOADS, "0 to 48 copies"),
    ],
)
def test_what_is_of_no_use_is_refused(tiny, family, devices, copies, loads, why):
    with pytest.raises(ConfigError, match=f"{copies} redundant experts") as caught:
        expert_places.plan_places(tiny(family), devices, copies, loads)
    assert why in caught.value.why


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_arranged_parameters_are_restored(tiny, tiny_params, dtype):
    config, scheme = tiny("r1"), quant.scheme(dtype)
    params = jax.tree.map(np.asarray, quant.quantise_tree(tiny_params("r1"), scheme))
    axes = parameters.logical_axes(config, scheme)
    places = expert_places.plan_places(config, 3, 4, LOADS)
    arranged = jax.jit(lambda p: expert_places.arrange(p, places))(params)
    names = expert_places.arranged_axes(axes, places)
    ranks = jax.tree.map(lambda leaf, axes: leaf.ndim == len(axes), arranged, names)
    assert all(jax.tree.leaves(ranks))
    down = arranged["moe_layers"]["moe"]["experts"]["down"]
    assert (down.values if scheme else down).shape[:2] == (2, 21)
    assert arranged["mtp"]["block"]["moe"]["slots"].shape == (1, 16, 2)
    back = jax.jit(expert_places.restore)(arranged)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    assert expert_places.restore(params) == params


def test_shapes_are_arranged_without_values(tiny):
    config = tiny("r1")
    places = expert_places.plan_places(config, 3)
    shapes = jax.eval_shape(
        lambda params: expert_places.arrange(params, places),
        parameters.abstract(config),
    )
    moe = shapes["moe_layers"]["moe"]
    assert moe["experts"]["down"].shape[:2] == (2, 18)
    assert moe["slots"].shape == (2, 16, 2)
