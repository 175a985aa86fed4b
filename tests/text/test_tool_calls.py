"""Tool calls come out of a stream as they would out of the whole text."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax.text.tool_calls import ToolCallParser
from r1jax.text.tool_formats import HERMES, R1, ToolFormat

FORMS = {"r1": R1, "hermes": HERMES}
TRICKY = {
    "text": 'a "quoted" \\ } { </tool_call> <｜tool▁call▁end｜> \n ```',
    "deep": [{"a": [[1, {"b": "]"}]]}],
}


def parse(form: ToolFormat, *parts: str, parallel: bool = True):
    """Returns the content, and the calls as (name, arguments) with their ids."""
    parser = ToolCallParser(form, parallel)
    content, calls, ids = "", [], []
    for content_piece, pieces in [*map(parser.push, parts), parser.flush()]:
        content += content_piece
        for piece in pieces:
            if piece.name is not None:
                assert piece.index == len(calls)
                calls.append([piece.name, ""])
                ids.append(piece.id)
            calls[piece.index][1] += piece.arguments
    assert len(set(ids)) == len(ids)
    assert all(number.startswith("call_") for number in ids)
    return content, [tuple(call) for call in calls]


@pytest.fixture(params=FORMS)
def form(request) -> ToolFormat:
    return FORMS[request.param]


CALLS = [("sky", '{"city": "Bergen"}'), ("now", "{}"), ("say", json.dumps(TRICKY))]


def test_calls_are_read_as_they_are_written(form):
    assert parse(form, form.write(CALLS)) == ("", CALLS)


def test_text_before_calls_is_content_without_its_last_blanks(form):
    text = "Let me look.\n\n" + form.write(CALLS[:1])
    assert parse(form, text) == ("Let me look.", CALLS[:1])


def test_words_after_calls_keep_the_blanks_between_them(form):
    text = form.write(CALLS[:1]) + "\n\n Now you  know. <too"
    expected = ("Now you  know. <too", CALLS[:1])
    assert parse(form, text) == expected
    assert parse(form, *text) == expected


def test_text_without_calls_is_content_as_it_is(form):
    text = "  a < b, <tool, <｜tool▁, and so on \n"
    assert parse(form, text) == (text, [])


def test_a_name_comes_before_any_argument_and_arguments_as_they_come(form):
    parser, seen = ToolCallParser(form), []
    for letter in form.write([("sky", '{"city": "Bergen"}')]):
        seen += parser.push(letter)[1]
    assert seen[0].name == "sky"
    assert seen[0].id
    assert [piece.arguments for piece in seen[1:]] == list('{"city": "Bergen"}')


def test_without_parallel_calls_the_first_is_the_last(form):
    parser = ToolCallParser(form, parallel=False)
    parser.push(form.write(CALLS[:2])[: -len(form.calls_end) or None])
    assert parser.count == 1
    assert parser.finished


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>',
        '<tool_call>\n{"name":"f","parameters":{"a": 1}}\n</tool_call>',
        '<tool_call> { "name" : "f" , "arguments" : {"a": 1} } </tool_call>',
        '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {"a": 1}}',
        '<tool_call>{"arguments": {"a": 1}, "name": "f"}',
    ],
)
def test_other_ways_to_write_a_call_in_json(text):
    assert parse(HERMES, text) == ("", [("f", '{"a": 1}')])
    assert parse(HERMES, *text) == ("", [("f", '{"a": 1}')])


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        (f'{R1.head}f\n```json\n{{"a": 1}}\n```{R1.call_end}', '{"a": 1}'),
        (f'{R1.calls_begin}{R1.head}f\n{{"a": 1}}{R1.call_end}', '{"a": 1}'),
        (f"{R1.calls_begin}{R1.head}f\n```json\n```{R1.call_end}", "{}"),
        (f"{R1.calls_begin}{R1.head}f{R1.call_end}{R1.calls_end}", "{}"),
        (f"{R1.calls_begin}{R1.head}f\n", "{}"),
        (f'{R1.calls_begin}{R1.head}f\n```json\n{{"a": 1', '{"a": 1'),
    ],
)
def test_other_ways_to_write_a_call_with_r1s_marks(text, arguments):
    assert parse(R1, text) == ("", [("f", arguments)])
    assert parse(R1, *text) == ("", [("f", arguments)])


def test_what_is_no_call_after_all_is_content():
    text = "<tool_call>not JSON</tool_call>"
    assert parse(HERMES, text, " and on") == (text + " and on", [])


def test_a_call_that_breaks_off_before_its_name_is_none():
    assert parse(R1, f"ok {R1.calls_begin}{R1.head}unfin") == ("ok", [])


@settings(max_examples=50)
@given(data=st.data())
def test_cutting_changes_nothing(data):
    form = data.draw(st.sampled_from(list(FORMS.values())))
    names = st.text("abc_", min_size=1, max_size=3)
    values = st.recursive(
        st.text(st.sampled_from('a{}[]"\\\n<`｜é'), max_size=5) | st.integers(),
        lambda inner: (
            st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=2)
        ),
        max_leaves=5,
    )
    objects = st.dictionaries(names, values, max_size=3)
    calls = data.draw(st.lists(st.tuples(names, objects), max_size=3))
    marks = [*form.opens, form.call_end, form.head, "\n```", "{", "hi ", "\n"]
    before = data.draw(st.sampled_from(["", "Hm.\n", "a <tool", " x "]))
    noise = data.draw(st.lists(st.sampled_from(marks), max_size=3))
    written = form.write([(name, json.dumps(a)) for name, a in calls]) if calls else ""
    text = before + written + "".join(noise)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = parse(form, text)
    assert parse(form, *parts) == whole
    assert whole[1][: len(calls)] == [(name, json.dumps(a)) for name, a in calls]


def test_deep_and_long_arguments_take_linear_time(form):
    arguments = '{"a": ' + "[" * 30_000 + "]" * 30_000 + "}"
    text = form.write([("f", arguments)])
    parts = [text[at : at + 7] for at in range(0, len(text), 7)]
    assert parse(form, *parts) == ("", [("f", arguments)])
