"""The functions that a model may call: told to it in words, and held to by grammar.

None of R1's templates says which tools there are, so a system text of our own does.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from r1jax.text.grammar import json_rule, literal
from r1jax.text.tokenizer import Tokenizer
from r1jax.text.tool_formats import ToolFormat, pieces

_MOST_CALLS = 32  # in one answer whose calls are forced


@dataclass(frozen=True)
class Tool:
    """A function that the model may call.

    Attributes:
        name: how it is called.
        description: what it does.
        parameters: JSON Schema of its arguments, an object; None takes none.
        strict: whether a call's arguments must fit the schema.
    """

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    strict: bool = False

    def described(self) -> dict[str, Any]:
        """Returns OpenAI's description of it."""
        function: dict[str, Any] = {"name": self.name}
        if self.description:
            function["description"] = self.description
        function["parameters"] = self.schema()
        return {"type": "function", "function": function}

    def schema(self) -> dict[str, Any]:
        """Returns the schema of its arguments, which are always an object."""
        if not self.parameters:
            return {"type": "object", "properties": {}, "additionalProperties": False}
        return {"type": "object", **self.parameters}


@dataclass(frozen=True)
class Toolbox:
    """The tools of one request, and whether they must be used.

    Attributes:
        tools: those that may be called.
        required: whether at least one must be called, before anything else is said.
        parallel: whether several may be called at once.
    """

    tools: tuple[Tool, ...]
    required: bool = False
    parallel: bool = True

    def instructions(self, form: ToolFormat) -> str:
        """Writes the system text that tells a model of its tools."""
        described = (tool.described()["function"] for tool in self.tools)
        lines = [
            "# Functions",
            "You can call these functions. Each line has one, and the JSON Schema of",
            "its arguments:",
            *(json.dumps(function, ensure_ascii=False) for function in described),
            "",
            "To call one, end your answer with exactly this, its name for NAME and a",
            "JSON object for ARGUMENTS:",
            form.write([("NAME", "ARGUMENTS")]),
            self._manner(form),
            "What the functions return will be shown to you before you go on.",
        ]
        return "\n".join(lines)

    def _manner(self, form: ToolFormat) -> str:
        if self.required:
            must = " or ".join(tool.name for tool in self.tools)
            said = f"You must answer with a call now, of {must}."
        else:
            said = "Call a function only where it helps; else answer without one."
        if not self.parallel:
            return said + " Call at most one."
        mark = form.call_begin
        return said + f" For several calls repeat the part from {mark} for each."

    @property
    def binds(self) -> bool:
        """Whether what the model writes must be held to a grammar."""
        return self.required or any(tool.strict for tool in self.tools)

    def grammar(
        self, form: ToolFormat, tokenizer: Tokenizer, answer: str | None = None
    ) -> str:
        """Writes the grammar of answers that call these tools.

        Where calls are not required, free text may come first or instead; calls are
        held to the grammar from their first mark on, also where that is spelled out
        though it is a token of its own.

        Args:
            form: how calls are written.
            tokenizer: knows which marks are tokens.
            answer: the rule that an answer without calls must fit, if any.
        """
        more = _MOST_CALLS - 1 if self.parallel else 0
        again = f' ("\\n" call){{0,{more}}}' if more else ""
        end = again + " " + _terminals(form.calls_end, tokenizer)
        rules = [self._calls("call", form.head, form, tokenizer)]
        for at, tool in enumerate(self.tools):
            # What cannot be enforced is passed over, unless strictness was asked for.
            arguments = json_rule(tool.schema(), lenient=not tool.strict)
            rules.append(f"arguments_{at}: {arguments}")
        begin = _terminals(form.calls_begin, tokenizer)
        if self.required:
            return "\n".join([f"start: {begin} call{end}", *rules])
        if answer is not None:
            return "\n".join([f"start: {answer} | {begin} call{end}", *rules])
        opened = form.head.removeprefix(form.call_begin)
        rules.append(self._calls("opened", opened, form, tokenizer))
        starts = ["TEXT?"]
        for at, mark in enumerate(form.opens):
            first = "call" if mark == form.calls_begin else "opened"
            rules.append(f"spelled_{at}[lazy]: /(.|\\n)*{mark}/")
            starts.append(f"spelled_{at} {first}{end}")
            token = tokenizer.token_id(mark)
            if token is not None:
                starts.append(f"TEXT? <[{token}]> {first}{end}")
        return "\n".join(["start: " + " | ".join(starts), "TEXT: /(.|\\n)+/", *rules])

    def _calls(
        self, rule: str, head: str, form: ToolFormat, tokenizer: Tokenizer
    ) -> str:
        """Writes the rule of a call of any of the tools."""
        after = _terminals(form.tail, tokenizer)
        calls = (
            f"{_terminals(head + tool.name + form.middle, tokenizer)} arguments_{at}"
            for at, tool in enumerate(self.tools)
        )
        return f"{rule}: ({' | '.join(calls)}) {after}"


def _terminals(text: str, tokenizer: Tokenizer) -> str:
    """Writes a format's text as terminals of a grammar, its tokens as tokens."""
    written = []
    for piece, is_mark in pieces(text):
        token = tokenizer.token_id(piece) if is_mark else None
        written.append(literal(piece) if token is None else f"<[{token}]>")
    return " ".join(written)
