"""A stop string ends the text where it first appears, however the text comes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1jax.errors import RequestError
from r1jax.text import StopStrings

TEXT = st.text("abc", max_size=20)
STOPS = st.lists(st.text("abc", min_size=1, max_size=5), max_size=4)


def _cut(text: str, stops: list[str]) -> str:
    """Cuts the whole text before the first place where any stop begins."""
    return text[: min((text.find(s) for s in stops if s in text), default=len(text))]


@given(text=TEXT, stops=STOPS, data=st.data())
def test_any_pieces_equal_cutting_the_whole(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    stream, shown, hit = StopStrings(stops), "", False
    for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True):
        emit, hit = stream.push(text[a:b])
        shown += emit
    shown += stream.flush()
    assert shown == _cut(text, stops)
    assert (stream.matched is not None) == any(stop in text for stop in stops)
    assert not hit or stream.matched is not None


@given(text=TEXT, stops=STOPS)
def test_never_shows_what_it_would_have_to_take_back(
    text: str, stops: list[str]
) -> None:
    stream, shown = StopStrings(stops), ""
    for letter in text:
        shown += stream.push(letter)[0]
        assert _cut(text, stops).startswith(shown)


def test_holds_back_only_what_may_become_a_stop() -> None:
    stream = StopStrings(["</s>"])
    assert stream.push("one < two </") == ("one < two ", False)
    assert stream.push("p>") == ("</p>", False)
    assert stream.push("x</s>y") == ("x", True)
    assert stream.matched == "</s>"
    assert stream.push("more") == ("", True)
    assert stream.flush() == ""


def test_one_string_is_one_stop() -> None:
    assert StopStrings("ab").push("b a ab") == ("b a ", True)


def test_without_stops_all_text_passes_at_once() -> None:
    stream = StopStrings([])
    assert stream.push("abc") == ("abc", False)
    assert stream.flush() == ""


def test_longer_stop_that_began_earlier_wins() -> None:
    stream = StopStrings(["bc", "abcd"])
    assert stream.push("xabc") == ("x", False)
    assert stream.push("d") == ("", True)
    assert stream.matched == "abcd"


def test_waiting_stop_counts_at_the_end() -> None:
    stream = StopStrings(["bc", "abcd"])
    assert stream.push("xabc") == ("x", False)
    assert stream.flush() == "a"
    assert stream.matched == "bc"


def test_empty_stop_is_refused() -> None:
    with pytest.raises(RequestError, match="empty"):
        StopStrings(["x", ""])
