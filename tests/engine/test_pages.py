"""No page is owned twice, lost, or page 0."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1jax.engine.pages import Pages
from r1jax.errors import ConfigError

# Which of four sequences grows to how many tokens; 0 gives its pages back.
MOVES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60)), max_size=40)


@given(st.integers(2, 20), st.integers(1, 9), MOVES)
def test_pages_are_neither_shared_nor_lost(total, page_size, moves):
    pages = Pages(total, page_size)
    owned: list[list[int]] = [[] for _ in range(4)]
    for who, tokens in moves:
        before = list(owned[who])
        if not tokens:
            pages.release(owned[who])
            assert owned[who] == []
        elif pages.grow(owned[who], tokens):
            assert owned[who][: len(before)] == before
            assert len(owned[who]) * page_size >= tokens
            assert len(owned[who]) == max(len(before), pages.needed(tokens))
        else:
            assert owned[who] == before
            assert pages.needed(tokens) - len(before) > pages.total - pages.used
        taken = [page for pages_of in owned for page in pages_of]
        assert len(set(taken)) == len(taken) == pages.used
        assert all(0 < page < total for page in taken)
    for each in owned:
        pages.release(each)
    everything: list[int] = []
    assert pages.grow(everything, (total - 1) * page_size)
    assert sorted(everything) == list(range(1, total))


@pytest.mark.parametrize(
    ("tokens", "pages"), [(0, 0), (1, 1), (8, 1), (9, 2), (16, 2), (17, 3)]
)
def test_a_begun_page_is_a_page(tokens, pages):
    assert Pages(9, 8).needed(tokens) == pages


def test_a_pool_of_padding_alone_is_refused():
    with pytest.raises(ConfigError, match="at least 2"):
        Pages(1, 8)
