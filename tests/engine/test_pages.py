"""No page is lost, page 0, or owned twice but where its tokens are the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1jax.engine.pages import Pages, name_pages
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
    assert pages.grow(second, 2, home=max(pages.homes, key=pages.room))


def named(tokens, page_size=2):
    names = []
    name_pages(names, tokens, page_size)
    return names


def keep(pages, tokens, home=0):
    """Lets a sequence of these tokens come and go."""
    owned, names = [], named(tokens)
    assert pages.grow(owned, len(tokens), home)
    pages.name(owned, names, range(len(names)), home)
    pages.release(owned, home)


def test_a_name_stands_for_all_tokens_up_to_its_pages_end():
    names = named([1, 2, 3, 4, 5])
    assert len(set(names)) == len(names) == 2
    assert named([1, 2, 3, 4, 9, 9])[:2] == names
    assert named([1, 2, 4, 3])[0] == names[0]
    assert named([1, 2, 4, 3])[1] != names[1]
    assert named([3, 4])[0] != names[1]
    assert named([258, 1])[0] != named([2, 257])[0]  # the bytes are those of whole ids
    more = names[:1]
    name_pages(more, [1, 2, 3, 4], 2)
    assert more == names


def test_the_end_of_what_was_let_go_first_makes_room_first():
    pages, old, new = Pages(7, 2), [1] * 6, [2] * 6
    keep(pages, old)
    keep(pages, new)
    left = []
    for _ in range(6):
        left.append((pages.find(named(old), 0), pages.find(named(new), 0)))
        pages.grow([], 2)  # a page that is never let go
    assert left == [(3, 3), (2, 3), (1, 3), (0, 3), (0, 2), (0, 1)]


def test_a_page_that_is_found_again_is_kept_longer():
    pages = Pages(5, 2)
    keep(pages, [1] * 4)
    keep(pages, [2] * 4)
    owned = []
    pages.share(owned, named([1] * 4), 0)
    assert pages.used == 2
    pages.release(owned)
    assert pages.grow(owned, 4)
    assert pages.find(named([1] * 4), 0) == 2
    assert pages.find(named([2] * 4), 0) == 0


def test_a_shared_page_is_free_when_the_last_has_let_it_go():
    pages = Pages(5, 2)
    keep(pages, [1] * 4)
    owners = [[], []]
    for owned in owners:
        pages.share(owned, named([1] * 4), 0)
    pages.audit((owned, 0) for owned in owners)
    assert pages.used == 2
    pages.release(owners[0])
    assert pages.used == 2
    assert not pages.grow(owners[0], 6)
    pages.release(owners[1])
    assert pages.grow(owners[0], 8)
    assert pages.find(named([1] * 4), 0) == 0


def test_pages_of_another_home_are_not_found():
    pages = Pages(5, 2, **SHARED)
    tokens = [1] * 10  # devices 1, 1, 2, 2, 0
    keep(pages, tokens, home=1)
    assert [pages.find(named(tokens), home) for home in pages.homes] == [0, 5, 0]


@pytest.mark.parametrize("fault", ["lost", "twice", "count", "name", "stranger"])
def test_the_audit_says_which_page_is_wrong(fault):
    pages = Pages(5, 2)
    keep(pages, [1] * 4)
    owned = []
    pages.grow(owned, 2)
    held = [(owned, 0)]
    pages.audit(held)
    device = pages._devices[0]
    if fault == "lost":
        device.free.clear()
    elif fault == "twice":
        device.free.append(owned[0])
    elif fault == "count":
        held *= 2
    elif fault == "name":
        device.page_of.popitem()
    else:
        device.free.append(99)
    with pytest.raises(AssertionError, match=r"device 0, (page|names)"):
        pages.audit(held)


BEGINNINGS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 30), st.integers(0, 2)), max_size=40
)


@given(st.integers(2, 12), st.integers(1, 3), BEGINNINGS)
def test_pages_found_are_those_of_the_same_tokens(total, devices, moves):
    """Four sequences come with one of three beginnings, share what is there, and go."""
    pages = Pages(total, 2, devices, 5 * devices)
    contents = {}
    owned, homes = [[] for _ in range(4)], [0] * 4
    for who, length, first in moves:
        if owned[who]:
            pages.release(owned[who], homes[who])
        elif length:
            tokens = [first] * min(length, 10 * devices)
            names, homes[who] = named(tokens), length % devices
            found = pages.find(names, homes[who])
            pages.share(owned[who], names[:found], homes[who])
            for column in range(found):
                at = pages.device(homes[who], column), owned[who][column]
                assert contents[at] == tokens[: 2 * column + 2]
            if pages.grow(owned[who], len(tokens), homes[who]):
                for column, name in enumerate(names[found:], found):
                    at = pages.device(homes[who], column), owned[who][column]
                    contents[at] = tokens[: 2 * column + 2]
                    pages.name(owned[who], names, range(column, column + 1), homes[who])
                    assert name == names[column]
            else:
                pages.release(owned[who], homes[who])
        pages.audit(zip(owned, homes, strict=True))
    for each, home in zip(owned, homes, strict=True):
        pages.release(each, home)
    assert pages.used == 0
