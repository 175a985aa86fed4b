"""Rounding to few bits, where scales lie, and which part of a model has which form."""

from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from r1jax import parameters, quant, rounding, sharding
from r1jax.errors import ConfigError
from r1jax.presets import preset
from r1jax.quant import FORMS, QArray, Scheme
from r1jax.rounding import round_on_host, round_to

# The largest error of a weight, by the largest weight that shares its scale: half a
# step, which for floats of three bits behind the first is 2^-4 of the weight itself.
WORST = {"int8": 0.5 / 127, "fp8": 2**-4, "fp8_blocks": 2**-4, "int4": 0.5 / 7}


def is_leaf(leaf):
    return isinstance(leaf, QArray | tuple)


def by_path(tree):
    flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
    return {"/".join(key.key for key in path): leaf for path, leaf in flat}


@pytest.mark.parametrize("form", FORMS)
def test_a_weight_moves_less_than_half_a_step(rng, form):
    array = rng.standard_normal((3, 300, 140)).astype(np.float32)
    few = quant.quantise(jnp.asarray(array), -2, form)
    assert few.form == form
    error = np.abs(quant.widen(few, -2) - array)
    assert error.max() <= WORST[form] * np.abs(array).max()
    assert few.values.shape == array.shape
    blocks = {"fp8_blocks": (3, 3, 2), "int4": (3, 2, 140)}
    assert few.scales.shape == blocks.get(form, (3, 140))


@pytest.mark.parametrize("form", FORMS)
def test_numpy_and_jax_give_the_same_bits(rng, form):
    array = rng.standard_normal((2, 300, 140)).astype(np.float32)
    array *= np.exp(rng.standard_normal(array.shape)).astype(np.float32)
    host, device = (quant.quantise(a, -2, form) for a in (array, jnp.asarray(array)))
    assert isinstance(host.values, np.ndarray)
    for one, other in zip(jax.tree.leaves(host), jax.tree.leaves(device), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, np.asarray(other))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(2, 700, 300), (300, 2, 400)], ids=str)
def test_bands_on_the_host_give_the_same_bits(rng, form, shape):
    """Those of several bands and threads, of bfloat16, with narrower last blocks."""
    array = rng.standard_normal(shape).astype(ml_dtypes.bfloat16)
    summed = -3 if shape[1] == 2 else -2
    with ThreadPoolExecutor(2) as pool:
        found = round_on_host(array, summed, form, pool.map)
    for one, other in zip(found, round_to(array, summed, form), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_e4m3_is_rounded_as_ml_dtypes_does(rng):
    """Every number, every middle between two and its neighbours, and many others."""
    every = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn)
    every = np.sort(every[np.isfinite(every)].astype(np.float32))
    middles = (every[1:] + every[:-1]) / 2
    beside = [np.nextafter(middles, np.float32(side)) for side in (-1e3, 1e3)]
    some = rng.standard_normal((2, 10**5)).astype(np.float32) * [[100], [0.01]]
    few = np.float32([0.0, -0.0, 1e-30, 448.0001])
    values = np.concatenate(
        [every, middles, *beside, some.reshape(-1).clip(-448, 448), few]
    )
    values = values.astype(np.float32)
    wanted = values.astype(ml_dtypes.float8_e4m3fn)
    found = rounding._to_e4m3(values)
    np.testing.assert_array_equal(found.view(np.uint8), wanted.view(np.uint8))


@pytest.mark.parametrize(("form", "share"), [("fp8", 0.97), ("fp8_blocks", 0.995)])
def test_fp8_misses_by_less_than_with_scales_of_the_largest_value(rng, form, share):
    """The fewer weights share a scale, the more is won by choosing it."""
    array = rng.standard_normal((256, 2560)).astype(np.float32)
    few = quant.quantise(array, -2, form)
    peaks = np.abs(array).max(0) / 448
    if form == "fp8_blocks":
        peaks = np.abs(array).reshape(2, 128, 20, 128).max((1, 3)) / 448
    each = rounding.spread(peaks, array.shape, -2, quant.scaling_of(few, -2))
    largest = QArray((array / each).astype(ml_dtypes.float8_e4m3fn), peaks)
    chosen, plain = (
        np.square(quant.widen(one, -2) - array).sum() for one in (few, largest)
    )
    assert chosen < share * plain


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [0.0, 1e-42, 1e-30, 1e30], ids=str)
def test_columns_of_nothing_and_of_much_stay_finite(form, value):
    """A column of zeros has a scale, and an outlier takes only its block's accuracy."""
    array = np.zeros((512, 3), np.float32)
    array[7, 1], array[:, 2] = value, 1.0
    wide = quant.widen(quant.quantise(array, -2, form), -2)
    assert np.isfinite(wide).all()
    assert (wide[:, 0] == 0).all()
    if value == 1e30:
        np.testing.assert_allclose(wide[7, 1], value, rtol=1e-6)
    if value == 0 or form != "fp8_blocks":  # there the columns share their scales
        np.testing.assert_allclose(wide[:, 2], 1.0, rtol=1e-6)


def test_names_of_dtypes_say_what_is_stored_how():
    assert quant.scheme("bfloat16") is None
    for form in ("int8", "fp8", "fp8_blocks"):
        assert quant.scheme(form) == Scheme(form, form, form)
    assert quant.scheme("int4") == Scheme("int8", "int8", "int4")
    assert quant.scheme("int4", experts=False) == Scheme("int8", "int4", None)
    with pytest.raises(ConfigError, match="dtype is 'int9'"):
        quant.scheme("int9")
    with pytest.raises(ConfigError, match="dense weights in 'fp4'"):
        Scheme(dense="fp4")


@pytest.mark.parametrize("family", ["r1", "qwen2", "llama", "qwen3"])
@pytest.mark.parametrize("form", FORMS)
def test_a_quantised_tree_has_the_shapes_and_axes_that_are_announced(
    tiny, tiny_params, family, form
):
    config, scheme = tiny(family), Scheme(form, form, form)
    params = jax.tree.map(np.asarray, tiny_params(family))
    few = quant.quantise_tree(params, scheme)
    shapes = by_path(parameters.abstract(config, jnp.float32, scheme))
    axes = by_path(parameters.logical_axes(config, scheme))
    assert shapes.keys() == axes.keys() == by_path(tiny_params(family)).keys()
    for path, leaf in by_path(few).items():
        parts = tuple(path.split("/"))
        assert isinstance(leaf, QArray) == bool(quant.part_of(parts)), path
        pairs = [(leaf, shapes[path], axes[path])]
        if isinstance(leaf, QArray):
            pairs = [
                tuple(getattr(one, name) for one in pairs[0])
                for name in ("values", "scales")
            ]
        for array, shape, names in pairs:
            assert (array.shape, array.dtype) == (shape.shape, shape.dtype), path
            assert len(names) == array.ndim, path
            assert set(names) <= {*sharding.AXES, None}, path
    plain = by_path(quant.widen_tree(few, parameters.abstract(config)))
    for path, leaf in by_path(params).items():
        assert plain[path].shape == leaf.shape
        error = np.abs(plain[path] - leaf).max()
        assert error <= WORST[form] * np.abs(leaf).max(), path


def test_each_part_has_its_own_form(tiny, tiny_params):
    scheme = Scheme(attention="fp8_blocks", experts="int4")
    params = jax.tree.map(np.asarray, tiny_params("r1"))
    few = quant.quantise_tree(params, scheme)
    assert quant.scheme_of(few) == scheme
    assert quant.scheme_of(params) is None
    forms = {p: leaf.form for p, leaf in by_path(few).items() if is_leaf(leaf)}
    assert forms["moe_layers/attention/q_up/kernel"] == "fp8_blocks"
    assert forms["mtp/block/moe/experts/down"] == "int4"
    plain = ("norm", "embed", "head", "router", "k_up", "v_up", "mlp", "shared")
    assert not [path for path in forms if any(word in path for word in plain)]


def test_bytes_are_those_of_what_is_stored():
    """R1 in int8 is its 671 GB, and 4 bits of an expert are half a byte."""
    r1, every = preset("r1"), parameters.count(preset("r1"))

    def stored(dtype):
        tree = parameters.abstract(r1, "bfloat16", quant.scheme(dtype))
        del tree["mtp"]
        return sum(map(sharding.local_bytes, jax.tree.leaves(tree)))

    assert stored("bfloat16") / every == pytest.approx(2, rel=1e-4)
    int8, int4 = stored("int8"), stored("int4")
    assert int8 / every == pytest.approx(1.005, abs=0.005)
    experts = 58 * 256 * 3 * 7168 * 2048
    saved = experts * (1 - 0.5 - 4 / 256)  # less the scales of 256 weights
    assert int8 - int4 == pytest.approx(saved, rel=0.01)
