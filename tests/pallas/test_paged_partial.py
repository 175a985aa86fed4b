"""A cache cut along the sequence: shares from its parts merge to the whole."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from pallas.paged_steps import check, close, refer, run, step
from r1jax.pallas.gqa_attention.cases import CASES as GQA
from r1jax.pallas.mla_attention.cases import CASES as MLA
from r1jax.pallas.paged import Pool

DECODE = replace(GQA[0].small(), context=64, rows=3, dtype="float32", heads=4)
MIXED = replace(MLA[-1].small(), context=64, rows=3, dtype="float32", tokens=16)


@pytest.mark.parametrize("case", [DECODE, MIXED], ids=["decode", "mixed"])
def test_shares_equal_the_reference(case):
    lengths, counts = [10, 97, 128], [4, 8, 4]
    if case.kind == "decode":
        counts = [1, 1, 1]
    check(step(case, lengths, counts, offsets=[32, 32, 64]), partial=True)


def test_merged_shares_are_the_whole():
    whole = step(replace(DECODE, context=128), [120, 3, 65], [1, 1, 1])
    (expected, _), pages = refer(whole), DECODE.pages
    q, new, pool, layer, table, lengths = whole.arguments
    shares = []
    for part in range(2):
        at = jnp.full(3, part * 64, jnp.int32)
        cut = [q, new, pool, layer, table[:, part * pages :][:, :pages], lengths]
        share, pool = run(replace(whole, arguments=cut, offsets=at), partial=True)
        shares.append(share)
    peak = jnp.maximum(shares[0].peak, shares[1].peak)
    fades = [jnp.exp(s.peak - peak) for s in shares]
    mixed = sum(s.mixed * f[..., None] for s, f in zip(shares, fades, strict=True))
    total = sum(s.total * f for s, f in zip(shares, fades, strict=True))
    close(mixed / total[..., None], expected)
    assert isinstance(pool, Pool)
    np.testing.assert_array_equal(pool.values, refer(whole)[1].values)
