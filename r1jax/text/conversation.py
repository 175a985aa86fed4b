"""Renders conversations with tools, or that end in an answer to be gone on with.

Official templates of the R1 family are wrong about tools: with one call in a turn they
close neither the call nor the turn, and a second round of calls lacks its marks. What
happens between two turns of the user is therefore written here, the way the templates
write what they get right, and put in place of one answer; so they only ever see plain
turns. The same serves an answer that the model is to go on with.
"""

import json
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from r1jax.errors import TextError
from r1jax.text.chat import ChatTemplate
from r1jax.text.reasoning import CLOSE
from r1jax.text.tokenizer import Tokenizer
from r1jax.text.tool_formats import (
    HERMES,
    R1,
    ToolFormat,
    hermes_responses,
    r1_outputs,
)
from r1jax.text.tools import Toolbox

Turn = Mapping[str, Any]
_PARTED = re.compile(r"(\\n|\n)<｜tool▁output▁begin｜>")


def tool_format(template: ChatTemplate | None) -> ToolFormat:
    """Returns how the model of a template writes tool calls."""
    return R1 if template and R1.calls_begin in template.source else HERMES


def renders_tools(template: ChatTemplate | None) -> bool:
    """Tells whether a template itself describes tools, in a format known here."""
    if template is None or "tools" not in template.variables:
        return False
    return HERMES.call_begin in template.source + (template.tool_source or "")


def render(
    tokenizer: Tokenizer,
    turns: Sequence[Turn],
    toolbox: Toolbox | None = None,
    **variables: Any,
) -> tuple[str, bool]:
    """Renders a conversation in which tools may be called.

    Args:
        tokenizer: has the chat template.
        turns: OpenAI's messages.
        toolbox: the tools offered now; there may be calls in the past without any.
        **variables: for the template.

    Returns:
        The prompt, and whether it ends inside the assistant's turn, after the results
        of tools, where the template would not open one.

    Raises:
        TextError: the template refuses the messages, or there is none.
    """
    template = tokenizer.chat_template
    if renders_tools(template):
        tools = [tool.described() for tool in toolbox.tools] if toolbox else None
        turns = [_with_objects(turn) for turn in turns]
        return tokenizer.render_chat(turns, tools=tools, **variables), False
    form = tool_format(template)
    if toolbox:
        turns = instructed(turns, toolbox.instructions(form))
    if not any(turn.get("tool_calls") or turn["role"] == "tool" for turn in turns):
        return tokenizer.render_chat(turns, **variables), False
    if form is HERMES:
        return tokenizer.render_chat(list(_as_text(turns)), **variables), False
    assert template is not None
    parted = _PARTED.search(template.source) is not None
    plain, inside = _folded(turns, _end(tokenizer), parted)
    if inside:
        text = plain[-1]["content"]
        return before_answer(tokenizer, plain[:-1], **variables) + text, True
    return _rendered_as_is(tokenizer, plain, **variables), False


def instructed(turns: Sequence[Turn], text: str) -> list[Turn]:
    """Adds to the system turn, the last one as some templates drop all others."""
    systems = [at for at, turn in enumerate(turns) if turn["role"] == "system"]
    if not systems:
        return [{"role": "system", "content": text}, *turns]
    at = systems[-1]
    joined = {**turns[at], "content": f"{turns[at]['content']}\n\n{text}"}
    return [*turns[:at], joined, *turns[at + 1 :]]


def before_answer(
    tokenizer: Tokenizer,
    turns: Sequence[Turn],
    toolbox: Toolbox | None = None,
    **variables: Any,
) -> str:
    """Renders a conversation up to where a further answer of the assistant's begins.

    Raises:
        TextError: as `render`, or if the template does not show answers as they are.
    """
    mark = _placeholder()
    variables["add_generation_prompt"] = False
    answered = [*turns, {"role": "assistant", "content": mark}]
    text, _ = render(tokenizer, answered, toolbox, **variables)
    return _cut(text, mark)[0]


def _calls(turn: Turn) -> list[tuple[str, str]]:
    functions = [call["function"] for call in turn.get("tool_calls") or ()]
    return [(function["name"], function["arguments"]) for function in functions]


def _said(turn: Turn) -> str:
    """Returns an earlier answer without its thoughts."""
    return (turn.get("content") or "").rpartition(CLOSE)[2]


def _with_objects(turn: Turn) -> Turn:
    """Gives calls their arguments as objects, as templates of Hermes's kind want."""
    if not turn.get("tool_calls"):
        return turn
    calls = [
        {"type": "function", "function": {"name": name, "arguments": _object(text)}}
        for name, text in _calls(turn)
    ]
    return {**turn, "tool_calls": calls}


def _object(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments  # a call that a model got wrong; templates show it as it is


def _as_text(turns: Sequence[Turn]) -> Iterator[Turn]:
    """Writes calls into answers, and results as turns of the user."""
    results: list[str] = []
    for turn in turns:
        if turn["role"] == "tool":
            results.append(turn["content"])
            continue
        if results:
            yield {"role": "user", "content": hermes_responses(results)}
            results = []
        if turn.get("tool_calls"):
            said = _said(turn)
            text = said + ("\n" if said else "") + HERMES.write(_calls(turn))
            yield {"role": "assistant", "content": text}
        else:
            yield turn
    if results:
        yield {"role": "user", "content": hermes_responses(results)}


def _folded(
    turns: Sequence[Turn], end: str, parted: bool
) -> tuple[list[dict[str, Any]], bool]:
    """Makes one answer of all that lies between two turns of the user.

    Returns:
        Plain turns, and whether the last one is an answer that is still to be given.
    """
    plain: list[dict[str, Any]] = []
    results: list[str] = []
    answer: str | None = None
    for turn in turns:
        if turn["role"] == "tool":
            results.append(turn["content"])
            continue
        if results:
            answer = (answer or "") + end + r1_outputs(results, parted)
            results = []
        if turn.get("tool_calls"):
            answer = (answer or "") + _said(turn) + R1.write(_calls(turn))
        elif turn["role"] == "assistant" and answer is not None:
            plain.append({"role": "assistant", "content": answer + _said(turn)})
            answer = None
        else:
            if answer is not None:
                plain.append({"role": "assistant", "content": answer})
                answer = None
            plain.append(dict(turn))
    if results:
        text = (answer or "") + end + r1_outputs(results, parted)
        return [*plain, {"role": "assistant", "content": text}], True
    if answer is not None:
        plain.append({"role": "assistant", "content": answer})
    return plain, False


def _rendered_as_is(
    tokenizer: Tokenizer, turns: Sequence[dict[str, Any]], **variables: Any
) -> str:
    """Renders turns without letting the template touch answers that hold calls."""
    kept: dict[str, str] = {}
    masked = []
    for turn in turns:
        if turn["role"] == "assistant" and R1.calls_begin in turn["content"]:
            mark = _placeholder()
            kept[mark] = turn["content"]
            turn = {**turn, "content": mark}
        masked.append(turn)
    text = tokenizer.render_chat(masked, **variables)
    for mark, content in kept.items():
        before, after = _cut(text, mark)
        text = before + content + after
    return text


def _placeholder() -> str:
    return f"[answer {secrets.token_hex(16)}]"


def _cut(text: str, mark: str) -> tuple[str, str]:
    before, found, after = text.partition(mark)
    if not found or mark in after:
        raise TextError(
            "the chat template does not show an answer as it is",
            "so an answer cannot be gone on with, nor one with tool calls be shown",
            "end the conversation with a message of the user",
        )
    return before, after


def _end(tokenizer: Tokenizer) -> str:
    if tokenizer.eos_id is None:
        return ""
    return tokenizer.decode([tokenizer.eos_id], skip_special=False)
