"""Thoughts and answers come apart the same way whole and in any pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1jax.text import ReasoningSplitter, prompt_opens_thinking, split

PARTS = ["<think>", "</think>", "<think", "</", "think>", "\n", "\n\n", " ", "a", "b<"]
TEXT = st.lists(st.sampled_from(PARTS), max_size=12).map("".join)

CASES = [
    # output, thinking already open, reasoning, content
    ("hmm\n</think>\n\nanswer", True, "hmm", "answer"),
    ("\nhmm</think>answer\n", True, "hmm", "answer\n"),
    ("<think>\nhmm\n</think>\n\nanswer", True, "hmm", "answer"),
    ("<think>\nhmm\n</think>\n\nanswer", False, "hmm", "answer"),
    (" \n<think>hmm</think>answer", False, "hmm", "answer"),
    ("two\n\nparts\n</think>\n\nanswer", True, "two\n\nparts", "answer"),
    ("\n</think>\n\nanswer", True, "", "answer"),
    ("</think>", True, "", ""),
    ("never closed\n", True, "never closed", ""),
    ("<think>never closed", False, "never closed", ""),
    ("a </thi", True, "a </thi", ""),
    ("<thi", False, None, "<thi"),
    ("plain answer", False, None, "plain answer"),
    ("\n plain", False, None, "\n plain"),
    ("R1 writes <think> first", False, None, "R1 writes <think> first"),
    ("a</think>b</think>c", True, "a", "b</think>c"),
    ("a<think>b</think>c", True, "a<think>b", "c"),
    ("", True, "", ""),
    ("", False, None, ""),
]


@pytest.mark.parametrize(("text", "thinking", "reasoning", "content"), CASES)
def test_splits_whole(
    text: str, thinking: bool, reasoning: str | None, content: str
) -> None:
    assert split(text, thinking) == (reasoning, content)


@given(text=TEXT, thinking=st.booleans(), data=st.data())
def test_pieces_give_the_same_as_the_whole(
    text: str, thinking: bool, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    splitter = ReasoningSplitter(thinking)
    pairs = [
        splitter.push(text[a:b])
        for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)
    ]
    pairs.append(splitter.flush())
    joined = tuple("".join(parts) for parts in zip(*pairs, strict=True))
    reasoning, content = split(text, thinking)
    assert joined == (reasoning or "", content)
    assert splitter.has_reasoned == (reasoning is not None)


@given(text=TEXT, thinking=st.booleans())
def test_no_piece_shows_part_of_a_tag(text: str, thinking: bool) -> None:
    splitter, shown = ReasoningSplitter(thinking), ("", "")
    whole = split(text, thinking)
    for letter in text:
        reasoning, content = splitter.push(letter)
        shown = shown[0] + reasoning, shown[1] + content
        assert (whole[0] or "").startswith(shown[0])
        assert whole[1].startswith(shown[1])
    assert "</think>" not in (whole[0] or "")


def test_tells_when_the_thoughts_end() -> None:
    splitter = ReasoningSplitter(thinking=True)
    splitter.push("hmm</thi")
    assert splitter.is_reasoning
    splitter.push("nk>")
    assert not splitter.is_reasoning


@pytest.mark.parametrize(
    ("prompt", "opens"),
    [
        ("<｜User｜>Hi<｜Assistant｜><think>\n", True),
        ("<｜User｜>Hi<｜Assistant｜><think>\nOkay, so", True),
        ("<｜User｜>Hi<｜Assistant｜>", False),
        ("<｜User｜>Hi<｜Assistant｜><think>\n\n</think>\n\n", False),
        ("<｜User｜>What is <think>?<｜Assistant｜>", False),
        ("<｜User｜>Hi<｜Assistant｜>Mind the <think> tag", False),
        ("<|im_start|>assistant\n<think>\n", True),
        ("<|im_start|>user\nWhat is <think>?<|im_start|>assistant\n", False),
        ("", False),
    ],
)
def test_prompt_says_whether_it_opens_the_thoughts(prompt: str, opens: bool) -> None:
    assert prompt_opens_thinking(prompt) is opens
