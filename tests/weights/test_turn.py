"""Turning a tensor fills its part of the leaf, and is undone by turning back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax.weights.turn import Turn

SIZES = {"D": 6, "N": 3, "H": 4, "W": 2, "HW": 6, "C": 5, "F": 7, "half": 2, "two": 2}
TEXTS = (
    "D -> D",
    "F D -> F D",
    "F D -> D F",
    "(N H) D -> D N H",
    "(N H) -> N H",
    "D (N H) -> N H D",
    "F D -> D 1 F",
    "(N HW) C -> C N HW[:H]",
    "(N HW) C -> C N HW[H:]",
    "N C H -> C N H",
    "(N half two) D -> D N (two half)",
)


def leaf_of(turn: Turn) -> np.ndarray:
    """A leaf of -1; a fixed place lies on an axis of two."""
    fixed = [not axis.letters for axis in turn.leaf]
    shape = [2 if f else n for f, n in zip(fixed, turn.leaf_shape, strict=True)]
    return np.full(shape, -1.0)


def source_of(turn: Turn) -> np.ndarray:
    return np.arange(np.prod(turn.source_shape), dtype=float).reshape(turn.source_shape)


def filled(text: str) -> tuple[np.ndarray, np.ndarray]:
    turn = Turn.parse(text, SIZES)
    source, leaf = source_of(turn), leaf_of(turn)
    x, y = turn.align(source, leaf)
    y[...] = x
    return source, leaf


def test_heads_of_rows_become_axes():
    source, leaf = filled("(N H) D -> D N H")
    np.testing.assert_array_equal(leaf, source.reshape(3, 4, 6).transpose(2, 0, 1))


def test_heads_of_columns_become_axes():
    source, leaf = filled("D (N H) -> N H D")
    np.testing.assert_array_equal(leaf, source.T.reshape(3, 4, 6))


def test_a_fixed_place_leaves_the_others_alone():
    source, leaf = filled("F D -> D 1 F")
    np.testing.assert_array_equal(leaf[:, 1], source.T)
    assert (leaf[:, 0] == -1).all()


def test_each_head_is_parted_into_keys_and_values():
    source, keys = filled("(N HW) C -> C N HW[:H]")
    _, values = filled("(N HW) C -> C N HW[H:]")
    heads = source.reshape(3, 6, 5)
    np.testing.assert_array_equal(keys, heads[:, :4].transpose(2, 0, 1))
    np.testing.assert_array_equal(values, heads[:, 4:].transpose(2, 0, 1))


def test_pairs_side_by_side_are_laid_into_halves():
    source, leaf = filled("(N half two) D -> D N (two half)")
    np.testing.assert_array_equal(leaf[0, 0], source[[0, 2, 1, 3], 0])


@pytest.mark.parametrize("text", TEXTS)
@settings(max_examples=20, deadline=None)
@given(band=st.integers(1, 30))
def test_bands_of_any_height_make_the_same_leaf(text, band):
    turn = Turn.parse(text, SIZES)
    source, leaf = source_of(turn), leaf_of(turn)
    step = turn.row_step * band
    for start in range(0, len(source), step):
        x, y = turn.align(source[start : start + step], leaf, start)
        y[...] = x
    np.testing.assert_array_equal(leaf, filled(text)[1])


@pytest.mark.parametrize("text", TEXTS)
def test_turning_back_restores_what_was_taken(text):
    source, leaf = filled(text)
    turn = Turn.parse(text, SIZES)
    back = np.full_like(source, -1)
    x, y = turn.align(back, leaf)
    x[...] = y
    taken = back >= 0
    np.testing.assert_array_equal(back[taken], source[taken])
    assert taken.all() == ("[" not in text)
