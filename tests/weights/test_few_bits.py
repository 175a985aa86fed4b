"""Loading in few bits: as rounding the whole tree, and stored blocks untouched."""

import functools

import jax
import numpy as np
import pytest

from golden_files import ROOT
from r1jax import quant
from r1jax.weights import open_source


@functools.cache
def plain():
    return open_source(ROOT / "deepseek_fp8_mtp").params("float32", mtp=True)


def loaded(form):
    source, scheme = open_source(ROOT / "deepseek_fp8_mtp"), quant.scheme(form)
    return source.params("float32", mtp=True, scheme=scheme)


def test_blocks_of_a_release_are_kept_bit_for_bit():
    """Value times scale is the float32 that the plain path reads, to the last bit."""
    few = loaded("fp8_blocks")
    assert quant.scheme_of(few) == quant.scheme("fp8_blocks")
    wide = quant.widen_tree(few, plain())
    jax.tree.map(np.testing.assert_array_equal, wide, plain())


@pytest.mark.parametrize("form", ["int8", "fp8", "int4"])
def test_units_are_rounded_as_the_whole_tree_is(form):
    wanted = quant.quantise_tree(plain(), quant.scheme(form))
    jax.tree.map(np.testing.assert_array_equal, loaded(form), wanted)
