"""Rotary frequencies of the released models, and what rotation keeps."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax.config import RopeConfig, Yarn
from r1jax.layers.rope import frequencies, rotate, rotation, softmax_scale, yarn_bounds
from r1jax.presets import preset

# A few of transformers' frequencies for each scaled model, by index.
R1 = {
    0: 1.0,
    10: 0.05623413251903491,
    11: 0.03900692656714386,
    16: 0.0055,
    22: 0.0001778279410038922,
    23: 3.33380358040831e-05,
    31: 3.3338034084083097e-06,
}
QWEN3_8B = {
    0: 1.0,
    23: 0.006978305848598663,
    24: 0.005375321490790102,
    32: 0.0006029411764705882,
    39: 6.490394320837029e-05,
    40: 4.445698525097307e-05,
    63: 3.102344401879299e-07,
}
LLAMA3 = {
    1: 0.8146172338565447,
    28: 0.003211445994752591,
    29: 0.002166570763503359,
    32: 0.0005248461609929547,
    34: 0.0001785078127679964,
    35: 9.556212353964683e-05,
    63: 3.068925988914511e-07,
}
TABLES = {
    "r1": (64, R1),
    "r1-0528-qwen3-8b": (128, QWEN3_8B),
    "distill-llama-8b": (128, LLAMA3),
}


def rope_of(name):
    return preset(name).attention.rope


@pytest.mark.parametrize("name", TABLES)
def test_frequencies_are_those_of_the_release(name):
    dim, table = TABLES[name]
    found = frequencies(rope_of(name), dim)
    assert found.shape == (dim // 2,)
    np.testing.assert_allclose([found[i] for i in table], [*table.values()], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "dim", "bounds"),
    [("r1", 64, (10, 23)), ("r1-0528-qwen3-8b", 128, (23, 40))],
)
def test_yarn_keeps_high_frequencies_and_divides_low_ones(name, dim, bounds):
    rope = rope_of(name)
    assert yarn_bounds(rope.scaling, rope.theta, dim) == bounds
    ratio = frequencies(rope, dim) / frequencies(RopeConfig(rope.theta), dim)
    low, high = bounds
    np.testing.assert_allclose(ratio[: low + 1], 1, rtol=1e-12)
    np.testing.assert_allclose(ratio[high:], 1 / rope.scaling.factor, rtol=1e-12)
    assert np.all(np.diff(ratio[low : high + 1]) < 0)


def test_llama3_changes_wavelengths_beyond_a_quarter_of_the_original():
    rope = rope_of("distill-llama-8b")
    ratio = frequencies(rope, 128) / frequencies(RopeConfig(rope.theta), 128)
    np.testing.assert_allclose(ratio[:29], 1, rtol=1e-12)
    assert np.all(np.diff(ratio[28:36]) < 0)
    np.testing.assert_allclose(ratio[35:], 1 / 8, rtol=1e-12)


def test_r1_multiplies_its_softmax_scale_by_mscale_squared():
    attention = preset("r1").attention
    head = attention.nope_dim + attention.rope_dim
    assert softmax_scale(attention.rope, head) == pytest.approx(0.1352337789, rel=1e-9)
    assert softmax_scale(RopeConfig(1e4), head) == pytest.approx(192**-0.5)
    assert softmax_scale(rope_of("r1-0528-qwen3-8b"), 128) == pytest.approx(128**-0.5)


def random_heads(rng, tokens=9, heads=3, dim=16):
    return jnp.asarray(rng.standard_normal((tokens, heads, dim)), jnp.float32)


def test_interleaved_pairs_equal_half_split_ones_after_permutation(rng):
    x = random_heads(rng)
    turn = rotation(RopeConfig(100.0), 16, jnp.arange(9) * 7)
    permuted = jnp.concatenate([x[..., 0::2], x[..., 1::2]], axis=-1)
    np.testing.assert_array_equal(
        rotate(x, turn, interleaved=True), rotate(permuted, turn, interleaved=False)
    )


@pytest.mark.parametrize("interleaved", [True, False])
def test_each_pair_turns_by_position_times_frequency(rng, interleaved):
    x = random_heads(rng)
    positions = jnp.asarray([0, 1, 2, 3, 50, 100, 1000, 4095, 4096])
    turned = rotate(
        x, rotation(RopeConfig(1e4), 16, positions), interleaved=interleaved
    )
    x, turned = np.asarray(x, np.float64), np.asarray(turned)
    first, second = (x[..., 0::2], x[..., 1::2]) if interleaved else np.split(x, 2, -1)
    speed = 1e4 ** (-np.arange(8) / 8)
    angle = np.asarray(positions)[:, None, None] * speed
    pairs = (first + 1j * second) * np.exp(1j * angle)
    np.testing.assert_allclose(turned[..., :8], pairs.real, atol=2e-3)
    np.testing.assert_allclose(turned[..., 8:], pairs.imag, atol=2e-3)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 500), st.booleans())
def test_products_depend_on_distance_alone(a, b, shift, interleaved):
    rng = np.random.default_rng(0)
    q, k = random_heads(rng, 2, 1), random_heads(rng, 2, 1)

    def product(q_at, k_at):
        turns = (
            rotation(RopeConfig(50.0), 16, jnp.array([p, p])) for p in (q_at, k_at)
        )
        turned = [
            rotate(x, turn, interleaved=interleaved)
            for x, turn in zip((q, k), turns, strict=True)
        ]
        return float(jnp.sum(turned[0] * turned[1]))

    assert product(a, b) == pytest.approx(product(a + shift, b + shift), abs=5e-3)


def test_amplitude_multiplies_cos_and_sin():
    scaling = Yarn(factor=4.0, original_positions=256, amplitude=1.25)
    cos, sin = rotation(RopeConfig(1e4, scaling=scaling), 32, jnp.arange(5))
    np.testing.assert_allclose(cos**2 + sin**2, 1.25**2, rtol=1e-5)


def test_rotation_is_float32_whatever_the_dtype(rng):
    x = random_heads(rng).astype(jnp.bfloat16)
    turn = rotation(RopeConfig(1e4), 16, jnp.arange(9) + 1000)
    assert {part.dtype for part in turn} == {jnp.dtype("float32")}
    wide = rotate(x.astype(jnp.float32), turn, interleaved=True)
    narrow = rotate(x, turn, interleaved=True)
    np.testing.assert_array_equal(narrow, wide.astype(jnp.bfloat16))
