"""Conversations alternate, stay in one language, and claim nothing that is not so."""

import re

import pytest

from problems.thoughts import mistakes, pairs
from r1jax.problems import chats
from r1jax.problems.chat_words import INTENTS, TOO_BIG
from r1jax.problems.split import held_out


@pytest.fixture(scope="module")
def drawn():
    return chats(2000, 1)


def test_turns_alternate_and_every_answer_has_a_thought(drawn):
    lengths = set()
    for messages in drawn:
        lengths.add(len(messages))
        roles = [message["role"] for message in messages]
        assert roles == ["user", "assistant"] * (len(messages) // 2)
        for message in messages[1::2]:
            assert message["reasoning_content"]
            assert message["content"]
    assert lengths == {2, 4, 6, 8}


def test_the_same_seed_gives_the_same_and_fewer_are_the_beginning(drawn):
    assert chats(100, 1) == drawn[:100]
    assert chats(100, 2) != drawn[:100]


def test_answers_without_a_box_are_the_honest_ones(drawn):
    honest = {intent.answer for intents in INTENTS.values() for intent in intents}
    for words in TOO_BIG.values():
        honest |= {answer for _, answer in words.values()}
    said = {m["content"] for messages in drawn for m in messages[1::2]}
    plain = {answer for answer in said if "\\boxed" not in answer}
    assert plain == honest


@pytest.mark.parametrize("language", INTENTS)
def test_asked_who_it_is_or_for_more_it_says_what_it_is(language):
    for intent in INTENTS[language]:
        asked = " ".join(intent.questions)
        if re.search(r"ChatGPT|Python|{code}|{topic}|{place}", asked):
            assert "r1-nano" in intent.answer
            assert "r1jax" in intent.answer
            assert re.search("only|nur", intent.answer)


def test_numbers_that_are_declined_are_too_big_for_the_tasks(drawn):
    declined = {words["numbers"][1] for words in TOO_BIG.values()}
    seen = 0
    for messages in drawn:
        for user, assistant in zip(messages[::2], messages[1::2], strict=True):
            if assistant["content"] in declined:
                seen += 1
                long = [len(n) for n in re.findall(r"\d+", user["content"])]
                assert max(long) >= 4 or min(long) == 3, user
    assert seen > 100


def test_sums_in_conversations_are_right_and_of_training(drawn):
    seen = 0
    for messages in drawn:
        for message in messages[1::2]:
            thought = message["reasoning_content"]
            seen += thought.startswith(("Then", "Dann"))
            assert mistakes(thought) == []
            assert not any(held_out(f"{x},{y}") for x, y in pairs(thought))
    assert seen > 50


def test_a_follow_up_goes_on_with_the_last_answer(drawn):
    for messages in drawn:
        for before, user, after in zip(
            messages[1::2], messages[2::2], messages[3::2], strict=False
        ):
            goes_on = re.match(r"(?:Then|Dann) (\d+)", after["reasoning_content"])
            if goes_on:
                assert f"\\boxed{{{goes_on[1]}}}" in before["content"]
                assert re.search(r"\d", user["content"])
