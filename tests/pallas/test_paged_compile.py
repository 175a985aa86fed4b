"""The real TPU compiler takes the kernels at the models' shapes."""

import functools

import pytest

from pallas.tpu import compile_for, needs_compiler
from r1jax.pallas import gqa_attention, mla_attention
from r1jax.pallas.backend import Backend
from r1jax.pallas.chips import CHIPS
from r1jax.pallas.gqa_attention.cases import CASES as GQA
from r1jax.pallas.mla_attention.cases import CASES as MLA

CASES = {case.name: case for case in (*MLA, *GQA)}
FEW = [
    ("v5e", "llama-8b-tensor4-decode"),
    ("v5e", "smollm2-decode"),
    ("v6e", "r1-tensor8-decode-32x2048-int8"),
    ("v7x", "llama-8b-tensor4-decode-fp8"),
    ("v7x", "r1-tensor8-decode-32x2048"),
]

IN_HBM = [("v5p", "qwen-7b-tensor4-mixed-512+8"), ("v5p", "smollm2-mixed-512+8")]


def compiles(chip, case):
    kernel = gqa_attention if case.kv_heads else mla_attention
    function = functools.partial(
        getattr(kernel, case.kind),
        scale=0.1,
        backend=Backend("tpu", CHIPS[chip]),
        **({} if case.kv_heads else {"value_width": case.value_width}),
    )
    program = compile_for(chip, function, *case.arguments(), donate=(2,))
    assert "tpu_custom_call" in program.as_text()
    memory = program.memory_analysis()
    pool = case.arguments()[2].values
    assert memory.alias_size_in_bytes >= pool.size * pool.dtype.itemsize
    assert memory.temp_size_in_bytes < pool.size * pool.dtype.itemsize / 4


@needs_compiler
@pytest.mark.tpu_compile
@pytest.mark.parametrize(("chip", "name"), FEW)
def test_compiles(chip, name):
    compiles(chip, CASES[name])


@needs_compiler
@pytest.mark.tpu_compile
@pytest.mark.slow
@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("name", CASES)
def test_compiles_every_case(request, chip, name):
    if (chip, name) in IN_HBM:
        why = "XLA keeps tiles of queries in HBM, over a quarter of so small a pool"
        request.applymarker(pytest.mark.xfail(strict=True, reason=why))
    compiles(chip, CASES[name])
