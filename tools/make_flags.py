"""Makes docs/flags.md out of the command lines' parsers: python tools/make_flags.py."""

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import r1jax.checkpoints.__main__ as checkpoints
import r1jax.evaluate.__main__ as evaluate
import r1jax.plan.__main__ as plan
import r1jax.problems.__main__ as problems
import r1jax.train.__main__ as train
from r1jax import convert
from r1jax.serve import flags as serve

PAGE = Path(__file__).parent.parent / "docs" / "flags.md"
PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "python -m r1jax.serve": serve.parser,
    "python -m r1jax.evaluate": evaluate.parser,
    "python -m r1jax.train": train.parser,
    "python -m r1jax.plan": plan.parser,
    "python -m r1jax.checkpoints": checkpoints.parser,
    "python -m r1jax.problems": problems.parser,
    "python -m r1jax.convert": convert.parser,
}
_KINDS = {
    "whole_number": "N",
    "int": "N",
    "float": "NUMBER",
    "number of seconds": "SECONDS",
    "Path": "PATH",
}
_OPENING = """\
# Every flag

`python tools/make_flags.py` writes this page out of the parsers, and a test holds it to
them. What stands without dashes is given by its place. Any of these commands takes
`--help`. What flags do together: [serving](serving.md), [evaluating](evaluation.md),
[training](training.md), [planning](plan.md), [models by name](hub.md),
[weights](weights.md).
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page."""
    argparse.ArgumentParser(description=__doc__).parse_args(arguments)
    PAGE.write_text(text(), encoding="utf-8")
    print(PAGE)
    return 0


def text() -> str:
    """Returns the page."""
    sections = [_OPENING]
    for command, make in PARSERS.items():
        sections.append(f"\n## `{command}`\n")
        sections += _section(make())
    return "".join(sections)


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Lists what a parser takes, without those of its verbs."""
    for action in parser._actions:
        if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            yield action


def verbs(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Returns the parsers of a command's verbs; most have none."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _section(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yields a command's tables: what has no title first, then each group."""
    known = list(actions(parser))
    plain = [a for group in parser._action_groups[:2] for a in group._group_actions]
    yield from _table([action for action in known if action in plain])
    for group in parser._action_groups[2:]:
        title = str(group.title)
        yield f"\n**{title[:1].upper()}{title[1:]}**\n"
        if group.description:
            yield f"\n{group.description}\n"
        yield from _table([a for a in group._group_actions if a in known])
    for name, verb in verbs(parser).items():
        yield f"\n**`{name}`**\n"
        yield from _section(verb)


def _table(shown: Sequence[argparse.Action]) -> Iterator[str]:
    if shown:
        yield "\n| flag | takes | |\n|---|---|---|\n"
        yield from map(_row, shown)


def _row(action: argparse.Action) -> str:
    names = ", ".join(f"`{name}`" for name in action.option_strings)
    value = "" if action.nargs == 0 else f"`{_value(action)}`"
    if not names:
        names, value = value, ""
    help_text = (action.help or "") % {**vars(action), "default": action.default}
    notes = [help_text, *_notes(action)]
    told = "; ".join(filter(None, notes)).replace("|", "\\|")
    return f"| {names} | {value} | {told} |\n"


def _value(action: argparse.Action) -> str:
    """Names what a flag is followed by."""
    if action.metavar:
        name = str(action.metavar)
    elif action.choices:
        name = "CHOICE"
    elif action.option_strings:
        kind = str(getattr(action.type, "__name__", ""))
        name = _KINDS.get(kind, "TEXT")
    else:
        name = action.dest.upper()
    return f"{name} ..." if action.nargs == "+" else name


def _notes(action: argparse.Action) -> Iterator[str]:
    """Says what the help leaves unsaid: choices, that it is needed, the default."""
    if action.choices:
        yield "one of " + ", ".join(f"`{choice}`" for choice in action.choices)
    if action.option_strings and action.required:
        yield "required"
    told = action.help or ""
    if not action.default or "%(default)" in told or action.nargs == 0:
        return
    if not re.search(rf"\b{re.escape(str(action.default))}\b", told):
        yield f"default `{action.default}`"


if __name__ == "__main__":
    sys.exit(main())
