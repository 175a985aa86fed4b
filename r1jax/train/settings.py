"""A run's settings: a file's `get_config`, changed from the command line."""

import ast
import difflib
import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from r1jax.errors import ConfigError
from r1jax.problems import TASKS, Problem, draw
from r1jax.problems.drawing import LANGUAGES

COMPUTED = ("float32", "bfloat16")  # dtypes that learning can be computed in


def load(where: str, changes: Sequence[str] = ()) -> ConfigDict:
    """Reads settings.

    Args:
      where: A Python file, or the name of one in configs/; behind a colon, the
        argument of its `get_config`.
      changes: "a.b=c", where c is a Python literal or a bare word; a tuple may also be
        written as words with commas between.

    Raises:
      ConfigError: There is no such file, its argument is refused, a name is unknown
        (the nearest one is offered), or a value is of another kind.
    """
    place, _, argument = where.partition(":")
    try:
        config = _module(place).get_config(*filter(None, [argument]))
    except (ImportError, OSError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"no settings come from {where!r}",
            str(error),
            "name a file with get_config, such as configs/sft.py",
        ) from None
    for change in changes:
        _change(config, change)
    return config.lock()


def at_least(config: ConfigDict, lows: Mapping[str, float]) -> None:
    """Refuses numbers below their least, by their names such as "data.rows".

    Raises:
      ConfigError: Names the setting and its value.
    """
    for path, low in lows.items():
        found = _at(config, path)
        if found < low:
            raise ConfigError(
                f"{path} is {found}", f"it is {low} or more", f"set {path} so"
            )


def among(config: ConfigDict, choices: Mapping[str, Sequence[str]]) -> None:
    """Refuses words that are none of the choices, by the settings' names.

    Raises:
      ConfigError: Names the setting, its value and the choices.
    """
    for path, words in choices.items():
        if _at(config, path) not in words:
            raise ConfigError(
                f"{path} is {_at(config, path)!r}",
                f"it is one of {', '.join(words)}",
                "choose one of them",
            )


def in_common(config: ConfigDict, free: Sequence[str]) -> dict[str, str]:
    """Says what a resumed run must have in common with its beginning, as JSON.

    Args:
      config: The run's settings.
      free: Names of those that may differ.
    """
    fields = config.to_dict()
    return {name: repr(value) for name, value in fields.items() if name not in free}


def draw_problems(settings: ConfigDict, count: int, seed: int) -> list[Problem]:
    """Draws problems of training, of the kinds that the settings name."""
    return draw(
        tuple(settings.tasks) or TASKS,
        count,
        seed,
        split="train",
        languages=tuple(settings.languages) or LANGUAGES,
        digits=settings.digits,
    )


def _at(config: ConfigDict, path: str) -> Any:
    for name in path.split("."):
        config = config[name]
    return config


def _module(place: str) -> Any:
    if not place.endswith(".py"):
        return importlib.import_module(f"r1jax.configs.{place}")
    if not Path(place).is_file():
        raise OSError(f"{place} is no file")
    spec = importlib.util.spec_from_file_location(Path(place).stem, place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _change(config: ConfigDict, change: str) -> None:
    path, equals, text = change.partition("=")
    if not equals:
        raise ConfigError(
            f"--set {change}", "it changes nothing", "write --set name=value"
        )
    *outer, name = path.split(".")
    node = config
    for part in outer:
        node = _known(node, part, path)
        if not isinstance(node, ConfigDict):
            raise ConfigError(
                f"there is no setting {path!r}",
                f"{part} is a value and holds no others",
                f"set {path.rpartition('.')[0]}",
            )
    node[name] = _value(path, _known(node, name, path), text)


def _known(node: ConfigDict, name: str, path: str) -> Any:
    if name in node:
        return node[name]
    near = difflib.get_close_matches(name, list(node), 1)
    raise ConfigError(
        f"there is no setting {path!r}",
        f"{name!r} is unknown and would be ignored",
        f"did you mean {near[0]!r}?" if near else f"known: {', '.join(node)}",
    )


def _value(path: str, before: Any, text: str) -> Any:
    try:
        found: Any = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        found = text
    if isinstance(before, str):
        return text
    if isinstance(before, tuple):
        words = found if isinstance(found, (tuple, list)) else text.split(",")
        return tuple(word for word in words if word != "")
    if isinstance(before, float) and type(found) is int:
        found = float(found)
    if type(found) is not type(before):
        raise ConfigError(
            f"{path} is {text!r}",
            f"it is a {type(before).__name__}, such as {before!r}",
            f"give a {type(before).__name__}",
        )
    return found
