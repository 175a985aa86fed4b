"""Fp8 blocks multiplied out fast are what the plain product gives, bit for bit."""

import json

import ml_dtypes
import numpy as np
import pytest

from r1jax.weights import fp8, hf, open_source

EVERY = np.arange(256, dtype=np.uint8)


def blocks(rng, rows, columns):
    """Every finite value, in any place, and scales of many sizes."""
    values = rng.choice(EVERY[(EVERY & 0x7F) != 0x7F], (rows, columns))
    shape = (-(-rows // 128), -(-columns // 128))
    scales = np.exp(rng.uniform(-30, 3, shape)).astype(np.float32)
    scales.flat[0] = 0
    return values.view(ml_dtypes.float8_e4m3fn), scales


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", [(256, 384), (200, 576), (64, 130)], ids=str)
def test_fast_equals_plain(rng, shape, dtype):
    values, scales = blocks(rng, 128 + shape[0], shape[1])
    assert fp8.is_fast(scales)
    values = values[128:]  # rows in the middle of a tensor
    plain = fp8.multiply_out(values, scales, 128).astype(dtype)
    fast = fp8.multiply_out_fast(values, scales, 128, dtype)
    assert fast.dtype == plain.dtype
    np.testing.assert_array_equal(fast.astype("f4"), plain.astype("f4"))
    assert (np.signbit(fast) == np.signbit(plain)).all()


def test_what_is_no_number_stays_none():
    scales = np.ones((1, 1), np.float32)
    values = EVERY.reshape(2, 128).view(ml_dtypes.float8_e4m3fn)
    fast = fp8.multiply_out_fast(values, scales, 0, "float32")
    assert (np.isnan(fast) == np.isnan(values.astype("f4"))).all()
    assert np.isnan(fast).sum() == 2


def test_scales_whose_products_would_vanish_are_taken_plainly():
    assert fp8.is_fast(np.array([[0, 1e-30]], np.float32))
    assert not fp8.is_fast(np.array([[1, 1e-36]], np.float32))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_release_read_fast_is_the_one_read_plainly(dtype, hf_copy, same, monkeypatch):
    source = hf_copy("deepseek_fp8_mtp")
    plain = open_source(source).params(dtype, mtp=True)
    monkeypatch.setattr(hf, "_LARGE", 0)
    same(open_source(source).params(dtype, mtp=True), plain)
    assert json.loads((source / "config.json").read_text())["quantization_config"]
