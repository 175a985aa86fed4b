"""Draws problems: the same for the same seed, on one side of the split."""

import difflib
import random
from collections.abc import Sequence

from r1jax.errors import ConfigError
from r1jax.problems import spelling
from r1jax.problems.phrasings import Choice
from r1jax.problems.problem import Language, Problem, Split
from r1jax.problems.split import held_out, trainable
from r1jax.problems.tasks import DRAFTS, LONGEST, TASKS, Draft

LANGUAGES: tuple[Language, ...] = ("en", "de")
SPLITS = ("train", "held-out")
CHOICES = (*SPLITS, "all")


def draw(
    tasks: Sequence[str],
    count: int,
    seed: int,
    split: Split = "train",
    phrasings: Choice = "train",
    languages: Sequence[Language] = LANGUAGES,
    digits: int = LONGEST,
) -> list[Problem]:
    """Draws problems, each of a task and a language chosen at random.

    Fewer of them are the beginning of more with the same other arguments.

    Args:
        tasks: among `TASKS`.
        count: how many problems.
        seed: of the random numbers.
        split: whether the operands are those of training or the held out.
        phrasings: which ways of asking; "all" has the held-out ones too.
        languages: of question, thought and answer.
        digits: the longest operands, 1 to 4; products have three by two at most. The
            numbers of a countdown are always small.

    Raises:
        ConfigError: an argument is none of those it may be.
    """
    for name, given, known in (
        ("task", tasks, TASKS),
        ("language", languages, LANGUAGES),
        ("split", [split], SPLITS),
        ("choice of phrasings", [phrasings], CHOICES),
    ):
        _check(name, given, known)
    shortest = 1 if split == "train" else 2
    if not shortest <= digits <= LONGEST or count < 0:
        raise ConfigError(
            f"{count} problems of up to {digits} digits cannot be drawn",
            f"there are thoughts for {shortest} to {LONGEST} digits on this side of "
            "the split (of the shortest none is held out)",
            f"give a count of 0 or more and digits from {shortest} to {LONGEST}",
        )
    rng = random.Random(f"{seed}")
    problems: list[Problem] = []
    while len(problems) < count:
        task, language = rng.choice(tasks), rng.choice(languages)
        draft = DRAFTS[task](rng, language, digits)
        if split == "train":
            fits = trainable(draft.key, draft.thought.pairs)
        else:
            fits = held_out(draft.key)
        if fits:
            problems.append(_asked(rng, task, language, draft, phrasings))
    return problems


def _asked(
    rng: random.Random, task: str, language: Language, draft: Draft, choice: Choice
) -> Problem:
    """Puts a draft into words."""
    fields = dict(draft.fields)
    if "e" in fields:
        fields["e"] = spelling.expression(rng, fields["e"])
    template = rng.choice(draft.ways.of(choice))
    return Problem(
        task=task,
        question=spelling.disturbed(rng, template.format(**fields), language),
        thought=draft.thought.text(),
        answer=draft.answer,
        language=language,
        key=draft.key,
        check=draft.check,
    )


def _check(name: str, given: Sequence[str], known: Sequence[str]) -> None:
    """Refuses what is not known, and to choose among nothing."""
    for value in given:
        if value not in known:
            near = difflib.get_close_matches(value, known, 1)
            raise ConfigError(
                f"{value!r} is no {name}",
                f"there are {', '.join(known)}",
                f"did you mean {near[0]!r}?" if near else "use one of them",
            )
    if not given:
        raise ConfigError(
            f"no {name} is given",
            "a problem is drawn of one of them",
            f"give some of {', '.join(known)}",
        )
