"""How people really write: signs, spaces, capitals, politeness and slips."""

import random
import re

from r1jax.problems.problem import Language

_SIGNS = {
    "+": ("+",),
    "-": ("-", "-", "-", "−", "–"),  # noqa: RUF001
    "*": ("*", "*", "×", "x", "·"),  # noqa: RUF001
}
_BEFORE: dict[Language, tuple[str, ...]] = {
    "en": ("Hi, ", "Hello! ", "Hey, ", "Please: ", "Question: ", "ok, "),
    "de": ("Hallo, ", "Hallo! ", "Hi, ", "Bitte: ", "Frage: ", "ok, "),
}
_AFTER: dict[Language, tuple[str, ...]] = {
    "en": (" Thanks!", " Thank you.", " please", " Please."),
    "de": (" Danke!", " Vielen Dank.", " bitte", " Bitte."),
}
_TOKENS = re.compile(r"\d+|[-+*()]")
_LONG_WORD = re.compile(r"[^\W\d_]{5,}")
_LARGE = re.compile(r"\b\d{4}\b")


def expression(rng: random.Random, plain: str) -> str:
    """Writes "12+3*45" with the signs and spaces that somebody might use."""
    space = "" if rng.random() < 0.3 else " "
    signs = {sign: rng.choice(spelt) for sign, spelt in _SIGNS.items()}
    words = []
    for token in _TOKENS.findall(plain):
        sign = signs.get(token)
        words.append(f"{space}{sign}{space}" if sign else token)
    return "".join(words)


def disturbed(rng: random.Random, text: str, language: Language) -> str:
    """Changes how a question is written, and never what it asks."""
    if rng.random() < 0.06:
        text = rng.choice(_BEFORE[language]) + text
    if rng.random() < 0.06 and text[-1] in ".?!":
        text += rng.choice(_AFTER[language])
    if rng.random() < 0.04:
        text = _slip(rng, text)
    if rng.random() < 0.02 and "(" not in text:
        mark = "," if language == "en" else "."
        text = _LARGE.sub(lambda found: f"{found[0][0]}{mark}{found[0][1:]}", text)
    chance = rng.random()
    if chance < 0.12:
        text = text.lower()
    elif chance < 0.15:
        text = text.upper()
    chance = rng.random()
    if chance < 0.10:
        text = text.rstrip(".?!")
    elif chance < 0.12:
        text = f" {text}" if rng.random() < 0.5 else f"{text} "
    elif chance < 0.14:
        text = text.replace(" ", "  ", 1)
    return text


def _slip(rng: random.Random, text: str) -> str:
    """Swaps two letters inside one of the long words, or drops one."""
    words = list(_LONG_WORD.finditer(text))
    if not words:
        return text
    at = rng.choice(words).start() + rng.randint(1, 3)
    swapped = text[at + 1] + text[at] if rng.random() < 0.5 else text[at]
    return text[:at] + swapped + text[at + 2 :]
