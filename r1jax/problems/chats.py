"""Conversations of one to four turns: greetings, who it is, what it cannot do, sums."""

import random
import re
from typing import Any

from r1jax.problems import columns, spelling
from r1jax.problems.chat_words import FILLINGS, FOLLOW_UPS, INTENTS, TOO_BIG, Intent
from r1jax.problems.columns import WORDS, Thought
from r1jax.problems.drawing import LANGUAGES, draw
from r1jax.problems.phrasings import PHRASINGS
from r1jax.problems.problem import SENTENCES, Language, as_messages
from r1jax.problems.split import numbers_key, trainable
from r1jax.problems.tasks import TASKS

Messages = list[dict[str, Any]]
_TURNS = (1, 1, 1, 2, 2, 3, 4)
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_NUMBER = re.compile(r"\\boxed{(\d{1,3})}")
_SIGNS = {"add": "+", "subtract": "-", "multiply": "*"}
_TOO_BIG = (*_SIGNS, *_SIGNS, "division", "decimals")
_OPERATIONS = {"+": columns.add, "-": columns.subtract, "*": columns.multiply}


def chats(count: int, seed: int) -> list[Messages]:
    """Draws conversations; problems among them are those of training.

    Each is a list of messages, the answers with their thoughts in
    "reasoning_content". Fewer are the beginning of more with the same seed.
    """
    rng = random.Random(f"chats {seed}")
    return [_conversation(rng) for _ in range(count)]


def _conversation(rng: random.Random) -> Messages:
    """Mixes small talk, refusals and problems, in one language."""
    language = rng.choice(LANGUAGES)
    turns = rng.choice(_TURNS)
    messages: Messages = []
    while len(messages) < 2 * turns:
        chance = rng.random()
        if messages and chance < 0.3:
            messages += _follow_up(rng, language, messages[-1]["content"])
        elif chance < (0.55 if turns > 1 else 0.0):
            seed = rng.getrandbits(32)
            messages += as_messages(draw(TASKS, 1, seed, languages=[language])[0])
        elif chance < 0.85:
            messages += _small_talk(rng, language, rng.choice(INTENTS[language]))
        else:
            messages += _too_big(rng, language)
    return messages


def _small_talk(rng: random.Random, language: Language, intent: Intent) -> Messages:
    fillings = {name: rng.choice(words) for name, words in FILLINGS[language].items()}
    fillings["noise"] = "".join(rng.choices(_LETTERS, k=rng.randint(3, 9)))
    question = rng.choice(intent.questions).format(**fillings)
    question = spelling.disturbed(rng, question, language)
    return _turn(question, intent.thought, intent.answer)


def _too_big(rng: random.Random, language: Language) -> Messages:
    """Asks for what there are no thoughts for, and declines."""
    words, kind = TOO_BIG[language], rng.choice(_TOO_BIG)
    if kind == "division":
        a, b = str(rng.randint(10, 999)), str(rng.randint(2, 30))
        ways, e = PHRASINGS["two-step"], f"{a} / {b}"
    elif kind == "decimals":
        mark = "," if language == "de" else "."
        a, b = f"{rng.randint(0, 99)}{mark}{rng.randint(1, 9)}", str(rng.randint(1, 99))
        ways, e = PHRASINGS["add"], f"{a} + {b}"
    else:
        lengths = rng.choice(((3, 3), (4, 1))) if kind == "multiply" else (5, 1)
        a, b = rng.sample([_long(rng, length) for length in lengths], 2)
        ways, e = PHRASINGS[kind], spelling.expression(rng, f"{a}{_SIGNS[kind]}{b}")
    question = rng.choice(ways[language].train).format(a=a, b=b, e=e)
    question = spelling.disturbed(rng, question, language)
    return _turn(question, *words.get(kind, words["numbers"]))


def _long(rng: random.Random, shortest: int) -> str:
    length = rng.randint(shortest, 9)
    return str(rng.randint(10 ** (length - 1), 10**length - 1))


def _follow_up(rng: random.Random, language: Language, answer: str) -> Messages:
    """Goes on with the number of the last answer; nothing where it has none."""
    found = _NUMBER.search(answer)
    if found is None:
        return []
    a = int(found[1])
    sign = rng.choice("++--*")
    b = rng.randint(2, 9 if sign == "*" else 99)
    thought = Thought(WORDS[language])
    thought.say(f"{thought.words.then} {a}{sign}{b}.")
    result = _OPERATIONS[sign](thought, a, b)
    if not trainable(numbers_key(a, b), thought.pairs):
        return []
    question = rng.choice(FOLLOW_UPS[language][sign]).format(b=b)
    question = spelling.disturbed(rng, question, language)
    return _turn(question, thought.text(), SENTENCES[language] % result)


def _turn(question: str, thought: str, answer: str) -> Messages:
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "reasoning_content": thought, "content": answer},
    ]
