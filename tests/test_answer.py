"""From events to words: stop strings, thinking, half characters, log-probabilities."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from r1jax.answer import AnswerBuilder, Delta, join
from r1jax.engine.types import Event
from r1jax.text.reasoning import split
from r1jax.text.tokenizer import Tokenizer
from r1jax.text.tool_calls import ToolCallParser
from r1jax.text.tool_formats import HERMES


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE({c: i for i, c in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<eos>"])
    tags = ("<think>", "</think>")
    backend.add_tokens([AddedToken(tag, special=False) for tag in tags])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>"}))
    return Tokenizer.from_directory(folder)


def events(tokenizer, text, finish="stop"):
    ids = tokenizer.encode(text)
    if finish == "stop":
        ids.append(tokenizer.eos_id)
    last = len(ids) - 1
    return [
        Event(1, token, logprob=-1.0, finish=finish if i == last else None)
        for i, token in enumerate(ids)
    ]


def answer(tokenizer, text, *args, finish="stop", **kwargs):
    builder = AnswerBuilder(tokenizer, *args, **kwargs)
    return join(builder.push(event) for event in events(tokenizer, text, finish))


@given(st.text(max_size=40))
def test_without_stops_and_thinking_all_text_passes(tokenizer, text):
    assert answer(tokenizer, text + ".").content == text + "."


@given(
    st.lists(st.sampled_from(["<think>", "</think>", "</", "think>", "\n", "é", "x"])),
    st.booleans(),
)
def test_parts_a_stream_as_it_parts_the_whole(tokenizer, pieces, thinking):
    text = "".join(pieces) + "!"
    whole = answer(tokenizer, text, thinking=thinking)
    reasoning, content = split(text, thinking)
    assert (whole.reasoning, whole.content) == (reasoning or "", content)


@given(
    st.text("ab🎉", max_size=20),
    st.lists(st.text("ab🎉", min_size=1, max_size=4), min_size=1, max_size=3),
    st.booleans(),
)
def test_a_stop_string_never_leaks(tokenizer, text, stops, include):
    whole = answer(tokenizer, text + ".", stops, include_stop=include)
    places = [(text.find(stop), len(stop)) for stop in stops if stop in text]
    if places:
        at, length = min(places)
        assert whole.content == text[: at + length if include else at]
    else:
        assert whole.content == text + "."
    assert whole.finish == "stop"


def test_a_delta_never_ends_in_half_a_character(tokenizer):
    builder = AnswerBuilder(tokenizer)
    deltas = [builder.push(event) for event in events(tokenizer, "a🎉é")]
    assert [d.content for d in deltas if d.content] == ["a", "🎉", "é"]


def test_nothing_comes_after_the_end(tokenizer):
    builder = AnswerBuilder(tokenizer, ["b"])
    deltas = [builder.push(event) for event in events(tokenizer, "abcd")]
    assert [delta.finish for delta in deltas] == [None, "stop", None, None, None]
    assert deltas[2:] == [Delta()] * 3


def test_a_closing_tag_may_be_a_stop_string(tokenizer):
    whole = answer(tokenizer, "hm\n</think>\n\n2", ["</think>"], thinking=True)
    assert (whole.reasoning, whole.content, whole.finish) == ("hm", "", "stop")


def test_counts_the_thought_with_its_tags(tokenizer):
    assert answer(tokenizer, "ab</think>\n\nc", thinking=True).reasoning_tokens == 3
    text = "<think>ab</think>\n\nc"
    assert answer(tokenizer, text, thinking=False).reasoning_tokens == 4
    assert answer(tokenizer, text).reasoning_tokens == 0


def test_an_abort_shows_what_was_held_back(tokenizer):
    builder = AnswerBuilder(tokenizer, ["abc"])
    held = [builder.push(event) for event in events(tokenizer, "ab", finish=None)]
    last = builder.push(Event(1, finish="abort"))
    assert join(held).content == ""
    assert (last.content, last.finish, last.token_ids) == ("ab", "abort", ())


def test_every_generated_token_has_one_logprob_at_its_place(tokenizer):
    whole = answer(tokenizer, "é</think>x", thinking=True)
    assert [entry.token_id for entry in whole.logprobs] == list(whole.token_ids)
    assert [entry.offset for entry in whole.logprobs] == [0, 0, 1, 9, 10]
    thought = [entry.reasoning for entry in whole.logprobs]
    assert thought == [True, True, True, False, False]


def test_stop_strings_wait_until_enough_tokens_have_come(tokenizer):
    for least, text in [(0, "a"), (1, "a"), (2, "a.b"), (5, "a.b.c"), (7, "a.b.c.d")]:
        whole = answer(tokenizer, "a.b.c.d", ["."], finish="length", min_tokens=least)
        assert whole.content == text
        assert whole.finish == ("length" if least == 7 else "stop")


def test_a_stop_string_begun_too_early_does_not_count(tokenizer):
    assert answer(tokenizer, "ab ab", ["ab"], min_tokens=1).content == "ab "


CALL = HERMES.write([("sky", '{"a": "x. y"}')])


def test_tool_calls_are_joined_and_decide_why_the_answer_finished(tokenizer):
    text, parser = f"Hm.\n</think>\n\nLook:\n{CALL}", ToolCallParser(HERMES)
    whole = answer(tokenizer, text, thinking=True, tools=parser)
    assert (whole.reasoning, whole.content) == ("Hm.", "Look:")
    (call,) = whole.tool_calls
    assert (call.name, call.arguments) == ("sky", '{"a": "x. y"}')
    assert call.id.startswith("call_")
    assert whole.finish == "tool_calls"


def test_without_a_call_tools_change_nothing(tokenizer):
    whole = answer(tokenizer, "No.", tools=ToolCallParser(HERMES))
    assert (whole.content, whole.tool_calls, whole.finish) == ("No.", (), "stop")


def test_an_answer_ends_after_its_only_call(tokenizer):
    parser = ToolCallParser(HERMES, parallel=False)
    whole = answer(tokenizer, CALL + CALL, tools=parser)
    assert len(whole.tool_calls) == 1
    assert whole.finish == "tool_calls"
    assert len(whole.token_ids) <= len(tokenizer.encode(CALL))


def test_a_stop_string_ends_a_call_as_any_text(tokenizer):
    whole = answer(tokenizer, CALL, [". "], tools=ToolCallParser(HERMES))
    assert whole.tool_calls[0].arguments == '{"a": "x'


class Exhausted:
    failure = "too many states"


def test_an_answer_whose_guide_gave_up_is_one_cut_short(tokenizer):
    assert answer(tokenizer, "{", guide=Exhausted()).finish == "length"
