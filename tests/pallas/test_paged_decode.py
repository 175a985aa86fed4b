"""One new token a sequence: the simulated kernel is the reference."""

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pallas.paged_steps import check, step
from r1jax.pallas.gqa_attention.cases import CASES as GQA
from r1jax.pallas.mla_attention.cases import CASES as MLA

# The few layouts that differ once a case is small; float32, so that all digits count.
SMALL = [
    replace(c.small(), name="", context=320, dtype="float32", page=32)
    for c in (*MLA, *GQA)
    if c.kind == "decode" and c.heads // max(c.kv_heads, 1) in (3, 6, 7, 128)
]
LAYOUTS = sorted(set(SMALL), key=str)
ONE = replace(MLA[0].small(), context=320, dtype="float32", heads=8)


@pytest.mark.parametrize("case", LAYOUTS, ids=lambda c: f"{c.heads}-{c.kv_heads}")
def test_decode_equals_the_reference(case):
    check(step(case, [320, 0, 33, 1], [1, 0, 1, 1]))


@settings(max_examples=6, derandomize=True, deadline=None)
@given(st.lists(st.integers(0, 320), min_size=4, max_size=4))
@example([0, 0, 0, 0])
@example([1, 32, 33, 320])
@example([256, 257, 255, 0])
@example([0, 0, 0, 128])
def test_any_lengths_are_right_and_race_free(lengths):
    check(step(ONE, lengths, [int(n > 0) for n in lengths]), races=True)


def test_a_last_group_may_be_short():
    case = replace(ONE, rows=3)
    check(step(case, [40, 0, 7], [1, 0, 1]))


def test_bfloat16_agrees_within_its_digits():
    case = replace(GQA[0].small(), context=160)
    check(step(case, [160, 5, 0, 77], [1, 1, 0, 1]))
