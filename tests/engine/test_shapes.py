import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1jax.cache import Geometry
from r1jax.engine.shapes import Shapes


def opened(seqs, tokens, fine):
    shapes = Shapes(seqs, tokens, fine=fine)
    for geometry in (*shapes.first, *shapes.rest):
        shapes.open(geometry)
    return shapes


@given(st.integers(1, 40), st.integers(1, 600), st.booleans())
def test_the_first_shapes_suffice_and_none_exceeds_the_limits(seqs, tokens, fine):
    shapes = Shapes(seqs, tokens, fine=fine)
    everything = [*shapes.first, *shapes.rest]
    mixed = [g for g in everything if g.chunks]
    assert len(set(everything)) == len(everything)
    assert len(everything) - len(mixed) <= 1 + seqs.bit_length()
    assert len(mixed) <= (5 * (1 + (tokens // 64).bit_length()) if fine else 3)
    for g in everything:
        assert g.decodes in range(1, seqs + 1) or (g.decodes, g.chunks) == (0, 1)
        assert g.chunks <= seqs
        assert g.chunks * g.chunk_tokens <= tokens
    for geometry in shapes.first:
        shapes.open(geometry)
    for decodes in range(1, seqs + 1):
        assert decodes <= shapes.steady(decodes).decodes
        for left in ([1], [10**6], [1] * seqs, [10**6] * seqs):
            assert shapes.mixed(left, decodes) in shapes.first


@given(
    st.integers(1, 40),
    st.integers(1, 600),
    st.booleans(),
    st.lists(st.integers(1, 700), min_size=1, max_size=40),
    st.integers(0, 40),
)
def test_no_other_shape_would_waste_less(seqs, tokens, fine, left, decodes):
    shapes, left, decodes = opened(seqs, tokens, fine), left[:seqs], min(decodes, seqs)
    start = 64 if fine else 256

    def waste(g):
        fed = sum(min(n, g.chunk_tokens) for n in left[: g.chunks])
        return g.tokens - fed + start * math.ceil(sum(left) / fed)

    chosen = shapes.mixed(left, decodes)
    mixed = [g for g in (*shapes.first, *shapes.rest) if g.chunks]
    least = min(waste(g) for g in mixed if g.decodes >= decodes)
    assert chosen.decodes >= decodes
    assert waste(chosen) == least


@pytest.mark.parametrize("fine", [True, False])
@pytest.mark.parametrize("tokens", [1, 63, 65, 100, 500])
def test_a_lone_prompt_takes_few_steps(tokens, fine):
    """No step is begun for a few tokens that another's padding would hold."""
    shapes, left, steps = opened(8, 512, fine), tokens, 0
    while left:
        left = max(left - shapes.mixed([left], 0).chunk_tokens, 0)
        steps += 1
    assert steps <= 1 + (tokens > 64)


def test_a_burst_of_prompts_pads_little_where_every_token_costs():
    shapes = opened(32, 512, fine=True)
    waiting, cost, running = [128] * 32, 0, 0
    while waiting:
        g = shapes.mixed(waiting, running)
        cost += g.chunks * g.chunk_tokens
        fed = [max(n - g.chunk_tokens, 0) for n in waiting[: g.chunks]]
        waiting = [n for n in fed if n] + waiting[g.chunks :]
        running = 32 - len(waiting)
    assert cost == 32 * 128


def test_a_lone_prompt_is_not_padded_and_others_beside_it_by_a_quarter_of_the_rows():
    shapes = opened(32, 512, fine=True)
    assert shapes.mixed([128], 0) == Geometry(0, 1, 128)
    assert shapes.mixed([128], 1) == Geometry(8, 1, 128)


@pytest.mark.parametrize("later", [1, 2])
def test_a_shape_that_is_opened_later_is_used_from_then_on(later):
    shapes = Shapes(4, 8)
    for geometry in shapes.first:
        shapes.open(geometry)
    assert shapes.steady(later) == Geometry(4, 0, 0)
    shapes.open(Geometry(later, 0, 0))
    assert shapes.steady(later) == Geometry(later, 0, 0)
