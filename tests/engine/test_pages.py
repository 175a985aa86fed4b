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


SHARED = dict(devices=3, columns=6)


@given(MOVES)
def test_segments_go_round_the_devices_from_home(moves):
    """Each sequence holds a page of its own of the device that its place asks for."""
    pages = Pages(5, 2, **SHARED)
    owned: list[list[int]] = [[] for _ in range(4)]
    for who, tokens in moves:
        home, tokens = who % 3, min(tokens, 12)
        if tokens:
            pages.grow(owned[who], tokens, home)
        else:
            pages.release(owned[who], home)
        taken = [
            (pages.device(who % 3, column), page)
            for who, each in enumerate(owned)
            for column, page in enumerate(each)
        ]
        assert len(set(taken)) == len(taken) == pages.used
    assert [pages.device(2, column) for column in range(6)] == [2, 2, 0, 0, 1, 1]


def test_a_device_without_room_refuses_the_whole_growth():
    pages = Pages(3, 1, **SHARED)
    first, second = [], []
    assert pages.grow(first, 2, home=1)
    assert not pages.grow(second, 3, home=0)  # its third page is device 1's
    assert second == []
    assert pages.grow(second, 2, home=pages.best_home())
