"""Any number of new tokens a sequence, in one flat batch."""

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pallas.paged_steps import check, step
from r1jax.pallas.gqa_attention.cases import CASES as GQA
from r1jax.pallas.mla_attention.cases import CASES as MLA

SMALL = [
    replace(c.small(), name="", rows=4, context=320, dtype="float32", tokens=24)
    for c in (*MLA, *GQA)
    if c.kind == "mixed" and c.heads // max(c.kv_heads, 1) in (3, 6, 128)
]
LAYOUTS = sorted(set(SMALL), key=str)
# Few heads are gathered into tiles; sixteen are read where they lie.
GATHERED = replace(MLA[-1].small(), rows=3, context=160, dtype="float32", heads=8)
FLAT = replace(GATHERED, heads=16)


@pytest.mark.parametrize("case", LAYOUTS, ids=lambda c: f"{c.heads}-{c.kv_heads}")
def test_mixed_equals_the_reference(case):
    check(step(case, [320, 0, 33, 4], [11, 0, 1, 4]))


@st.composite
def batches(draw):
    counts = draw(st.lists(st.integers(0, 8), min_size=3, max_size=3))
    before = draw(st.lists(st.integers(0, 150), min_size=3, max_size=3))
    pairs = zip(before, counts, strict=True)
    return [b + c if c else 0 for b, c in pairs], counts


@settings(max_examples=4, derandomize=True, deadline=None)
@given(batches())
@example(([0, 0, 0], [0, 0, 0]))
@example(([8, 1, 15], [8, 1, 15]))  # prompts from their first token, no row spare
@example(([32, 129, 160], [3, 2, 1]))
@pytest.mark.parametrize("case", [GATHERED, FLAT], ids=["gathered", "flat"])
def test_any_batch_is_right_and_race_free(case, batch):
    lengths, counts = batch
    check(step(case, lengths, counts), races=True)
