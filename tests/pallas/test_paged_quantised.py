"""Caches of eight bits: int8 with a scale a token, fp8 as it is."""

from dataclasses import replace

import pytest

from pallas.paged_steps import check, step
from r1jax.pallas.gqa_attention.cases import CASES as GQA
from r1jax.pallas.mla_attention.cases import CASES as MLA

LATENT, HEADS = MLA[0].small(), GQA[0].small()


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        pytest.param(LATENT, "int8", id="mla"),
        pytest.param(HEADS, "float8_e4m3fn", id="gqa"),
        pytest.param(LATENT, "float8_e4m3fn", marks=pytest.mark.slow),
        pytest.param(HEADS, "int8", marks=pytest.mark.slow),
    ],
)
def test_decode_over_eight_bits(case, dtype):
    page = 128 if dtype == "int8" else 32
    case = replace(case, rows=2, context=256, dtype=dtype, page=page)
    check(step(case, [3, 129], [1, 1]))


def test_mixed_over_int8():
    sizes = dict(rows=2, context=256, dtype="int8", page=128, kind="mixed", tokens=12)
    check(step(replace(HEADS, **sizes), [140, 5], [9, 2]))


def test_eight_bits_are_race_free():
    case = replace(LATENT, rows=1, context=128, dtype="int8", page=128, heads=4)
    check(step(case, [70], [1]), races=True)
