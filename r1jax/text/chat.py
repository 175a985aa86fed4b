"""Turns chat messages into the text of a prompt, by the template of the model.

Templates are Jinja and run in `r1jax.text.sandbox`. Messages are the dicts of OpenAI's
API. What the templates of the R1 family make of them is their own affair, save for
three things in which they differ only by accident: lists of text parts, keys that are
present but None, and the content of a turn that only calls tools.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jinja2 import meta
from jinja2.environment import Template
from jinja2.exceptions import TemplateError

from r1jax.errors import TextError
from r1jax.text.sandbox import Meter, Sandbox

ROLES = ("system", "user", "assistant", "tool")
SOURCE_LIMIT = 1_000_000
# What a template, being somebody's program, may raise on messages it did not expect.
_FAILURES = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


class ChatTemplate:
    """A model's chat template.

    Attributes:
        source: the Jinja text.
        tool_source: that of a second template, used if tools are given, or None.
        variables: the names it reads from outside ("messages", "tools", perhaps
            "enable_thinking"); a template that does not read "tools" ignores them.
    """

    def __init__(
        self,
        source: str,
        bos_token: str | None,
        eos_token: str | None,
        tool_source: str | None = None,
    ) -> None:
        """Compiles the template, and `tool_source`, which is used if tools are given.

        Raises:
            TextError: a template is not valid Jinja.
        """
        self.source, self.tool_source = source, tool_source
        self._tokens = {"bos_token": bos_token or "", "eos_token": eos_token or ""}
        self._plain, names = _compile(source)
        self._tooled = self._plain
        if tool_source is not None:
            self._tooled, more = _compile(tool_source)
            names |= more
        self.variables = frozenset(names)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        /,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """Renders a prompt; it already holds BOS where the model wants one.

        An assistant turn that only calls tools is given to the template with content
        None, by which the templates of V3 and the distills know it, and if the
        template fails on that (R1-0528's does), with content "".

        Args:
            messages: OpenAI's: dicts with "role" and "content" (a string, a list of
                text parts, or None), perhaps "tool_calls".
            add_generation_prompt: whether to open the assistant's turn.
            tools: OpenAI's tool descriptions, for templates that read them.
            **variables: further names for the template, such as `enable_thinking`.

        Raises:
            TextError: a message is malformed, or the template refuses the messages.
        """
        given = variables | self._tokens
        given |= {"add_generation_prompt": add_generation_prompt, "tools": tools}
        code = self._tooled if tools else self._plain
        turns = [_normalised(message, at) for at, message in enumerate(messages)]
        try:
            return _render(code, given | {"messages": turns})
        except _FAILURES as error:
            if all(turn["content"] is not None for turn in turns):
                raise _refusal(error) from error
        filled = [turn | {"content": turn["content"] or ""} for turn in turns]
        try:
            return _render(code, given | {"messages": filled})
        except _FAILURES as error:
            raise _refusal(error) from error


def _compile(source: str) -> tuple[Any, set[str]]:
    """Compiles a template; also returns the names it reads from outside."""
    sandbox = Sandbox(Meter())
    try:
        if len(source) > SOURCE_LIMIT:
            raise ValueError(f"it has {len(source)} characters")
        names = meta.find_undeclared_variables(sandbox.parse(source))
        return sandbox.compile_guarded(source), names - set(sandbox.globals)
    except (*_FAILURES, SyntaxError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        raise TextError(
            "the chat template cannot be compiled",
            why=_first_line(error) + (f" (line {line})" if line else ""),
            fix="correct it, or put a working one into chat_template.jinja",
        ) from error


def _render(code: Any, variables: dict[str, Any]) -> str:
    sandbox = Sandbox(Meter(variables))
    return Template.from_code(sandbox, code, sandbox.globals).render(variables)


def _refusal(error: Exception) -> TextError:
    return TextError(
        f"the chat template refused the messages: {_first_line(error)}",
        why=f"rendering it raised {type(error).__name__}",
        fix="send messages of the shape it expects, or give the model another template",
    )


def _first_line(error: BaseException) -> str:
    """Returns the message alone; Jinja and Python may add source lines to it."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _normalised(message: Mapping[str, Any], at: int) -> dict[str, Any]:
    """Checks one message and returns a copy with the accidents of its form removed."""
    if not isinstance(message, Mapping):
        raise _malformed(at, f"it is of type {type(message).__name__}", "a dict")
    turn = {key: value for key, value in message.items() if value is not None}
    role = turn.get("role")
    if role == "developer":  # OpenAI's newer word for it
        role = turn["role"] = "system"
    if role not in ROLES:
        raise _malformed(at, f"its role is {role!r}", f"one of {', '.join(ROLES)}")
    if not turn.get("tool_calls"):
        turn.pop("tool_calls", None)
    turn["content"] = _flattened(turn.get("content"), at)
    if "tool_calls" in turn:
        turn["content"] = turn["content"] or None
    elif turn["content"] is None:
        if role in ("system", "user"):
            raise _malformed(at, "it has no content", "a string or text parts")
        turn["content"] = ""
    return turn


def _flattened(content: Any, at: int) -> str | None:
    """Joins text parts by newlines, as vLLM and llama.cpp do."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise _malformed(
            at, f"its content is of type {type(content).__name__}", "a string"
        )
    return "\n".join(_texts(content, at))


def _texts(parts: Sequence[Any], at: int) -> Iterator[str]:
    for part in parts:
        part = part if isinstance(part, Mapping) else {"type": type(part).__name__}
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            why = f"it has a content part of type {part.get('type')!r}"
            raise _malformed(at, why, 'parts like {"type": "text", "text": "..."}')
        yield part["text"]


def _malformed(at: int, why: str, wanted: str) -> TextError:
    return TextError(
        f"message {at} cannot be used", why=why, fix=f"it should be {wanted}"
    )
