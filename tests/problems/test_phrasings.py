"""There are many ways to ask, and those held out are not met in training."""

import random
import re

import pytest

from r1jax.problems import draw, spelling
from r1jax.problems.phrasings import PHRASINGS
from r1jax.problems.stories import STORIES

COMPARISONS = ("larger", "smaller", "is-larger", "is-smaller")
TABLES = {
    **{kind: [PHRASINGS[kind]] for kind in PHRASINGS if kind not in COMPARISONS},
    "compare": [PHRASINGS[kind] for kind in COMPARISONS],
    "word": list(STORIES.values()),
}


def _sides(task, language):
    tables = [table[language] for table in TABLES[task]]
    train = [way for table in tables for way in table.train]
    return train, [way for table in tables for way in table.held_out]


def _plain(template):
    """What is left when marks, capitals and spaces say nothing."""
    return re.sub(r"[^\w{}+*<>]", "", template.lower())


@pytest.mark.parametrize("task", TABLES)
def test_a_task_has_thirty_phrasings_and_a_fifth_held_out(task):
    train, held = (
        [*english, *german]
        for english, german in zip(_sides(task, "en"), _sides(task, "de"), strict=True)
    )
    assert len(train) + len(held) >= 30
    assert 0.14 < len(held) / (len(train) + len(held)) < 0.26
    for language in ("en", "de"):
        assert all(len(side) > 1 for side in _sides(task, language))


def test_no_phrasing_of_training_is_held_out():
    train, held = set(), set()
    for task in TABLES:
        for language in ("en", "de"):
            one, other = _sides(task, language)
            train |= set(map(_plain, one))
            held |= set(map(_plain, other))
    assert not train & held


def test_a_phrasing_tells_the_language_of_its_answer():
    english, german = (
        {
            _plain(way)
            for task in TABLES
            for side in _sides(task, language)
            for way in side
        }
        for language in ("en", "de")
    )
    assert not english & german


def test_no_phrasing_stands_twice_in_a_kind():
    for tables in TABLES.values():
        for table in tables:
            for phrasings in table.values():
                ways = phrasings.of("all")
                assert len(ways) == len(set(ways))


@pytest.mark.parametrize("choice", ["train", "held-out"])
def test_questions_are_asked_in_the_chosen_way(choice, monkeypatch):
    monkeypatch.setattr(spelling, "disturbed", lambda rng, text, language: text)
    for problem in draw(["add"], 300, 1, phrasings=choice):
        train, held = _sides("add", problem.language)
        ways = train if choice == "train" else held
        patterns = [
            re.escape(way)
            .replace(r"\{e\}", r"\d+ ?\+ ?\d+")
            .replace(r"\{a\}", r"\d+")
            .replace(r"\{b\}", r"\d+")
            for way in ways
        ]
        assert any(re.fullmatch(p, problem.question) for p in patterns), problem


def test_spelling_changes_signs_and_spaces_only():
    rng = random.Random(0)
    spelt = {spelling.expression(rng, "12*(3-4)") for _ in range(200)}
    assert {"12*(3-4)", "12 × (3 − 4)", "12x(3–4)"} <= spelt


def test_disturbing_a_question_keeps_its_numbers():
    rng = random.Random(0)
    text = "Please subtract 12 from 345."
    disturbed = {spelling.disturbed(rng, text, "en") for _ in range(500)}
    assert len(disturbed) > 30
    assert text.upper() in disturbed
    assert {tuple(re.findall(r"\d+", way)) for way in disturbed} == {("12", "345")}
