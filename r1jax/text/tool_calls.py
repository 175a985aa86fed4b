"""Reads tool calls out of an answer while it is written.

What a parser gives does not depend on how the text was cut into pieces: the joined
pieces are those of the whole text. Marks are never part of what it gives, and neither
is the white space around calls.
"""

import json
import re
import secrets
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from r1jax.text.reasoning import partial
from r1jax.text.tool_formats import R1, ToolFormat

# The beginning of a call in JSON, from which on its arguments can be passed on.
_JSON_HEAD = re.compile(
    r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,'
    r'\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)


@dataclass(frozen=True)
class ToolDelta:
    """What was added to one tool call: its id and name at first, then arguments.

    `arguments` is a piece of JSON text; the pieces of one `index` join to an object.
    """

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class _Stage(Enum):
    CONTENT = auto()
    CALLS = auto()  # R1's: between the mark that opens all calls and a call
    NAME = auto()  # R1's: from a call's mark to the line end after its name
    OPENING = auto()  # R1's: from the name to the brace of the arguments
    OBJECT = auto()  # in JSON: from a call's mark to the brace of the arguments
    ARGUMENTS = auto()
    CLOSING = auto()  # after the arguments


class ToolCallParser:
    """Parts an answer into content and tool calls.

    Attributes:
        count: the calls begun so far.
        finished: whether a call has been made and no other may follow.
    """

    def __init__(self, form: ToolFormat, parallel: bool = True) -> None:
        """Starts outside any call; with `parallel` off the first call is the last."""
        self._form, self._parallel = form, parallel
        self._stage, self._held = _Stage.CONTENT, ""
        self._nesting = _Nesting()
        self._after_call = False  # nothing has been said since the last call began
        self.count, self.finished = 0, False

    def push(self, text: str) -> tuple[str, tuple[ToolDelta, ...]]:
        """Returns the new content and pieces of calls; what may be a mark is held."""
        self._held += text
        content, pieces = "", []
        moved = True
        while moved and not self.finished:
            before = self._stage, len(self._held)
            said, piece = self._step()
            content += said
            self._after_call &= not said
            if piece is not None:
                pieces.append(piece)
            moved = before != (self._stage, len(self._held))
        return content, tuple(pieces)

    def flush(self) -> tuple[str, tuple[ToolDelta, ...]]:
        """Returns the rest, once the text has ended.

        A call that broke off before its name is complete is no call.
        """
        held, self._held = self._held, ""
        if self.finished:
            return "", ()
        if self._stage is _Stage.CONTENT:
            held = held.lstrip() if self._after_call else held
            return (held.rstrip() if self.count else held), ()
        if self._stage is _Stage.OBJECT:
            return self._whole(held, "")
        if self._stage is _Stage.OPENING:
            return "", (ToolDelta(self.count - 1, arguments="{}"),)
        return "", ()

    def _step(self) -> tuple[str, ToolDelta | None]:
        match self._stage:
            case _Stage.CONTENT:
                return self._content(), None
            case _Stage.CALLS:
                self._between()
            case _Stage.NAME:
                return "", self._name()
            case _Stage.OPENING:
                return "", self._open()
            case _Stage.OBJECT:
                return self._object()
            case _Stage.ARGUMENTS:
                return "", self._arguments()
            case _Stage.CLOSING:
                self._close()
        return "", None

    def _content(self) -> str:
        """Passes text on up to a mark, white space before it left out."""
        if self._after_call:
            self._held = self._held.lstrip()
        text, mark = self._until(*self._form.opens)
        if mark:
            called = mark == self._form.call_begin
            self._stage = self._form_stage() if called else _Stage.CALLS
            return text.rstrip()
        kept = text.rstrip()
        self._held = text[len(kept) :] + self._held
        return kept

    def _form_stage(self) -> _Stage:
        return _Stage.NAME if self._form is R1 else _Stage.OBJECT

    def _between(self) -> None:
        _, mark = self._until(self._form.call_begin, self._form.calls_end)
        if mark == self._form.call_begin:
            self._stage = _Stage.NAME
        elif mark:
            self._stage = _Stage.CONTENT

    def _name(self) -> ToolDelta | None:
        """Reads `function<sep>NAME` up to whatever comes next."""
        ends = (self._held.find(end) for end in ("\n", "{", self._form.call_end))
        end = min((at for at in ends if at >= 0), default=None)
        if end is None:
            return None
        line, self._held = self._held[:end], self._held[end:]
        self._stage = _Stage.OPENING
        return self._begin(line.rpartition(self._form.separator)[2].strip())

    def _open(self) -> ToolDelta | None:
        """Goes on to the arguments; a call may have none at all."""
        _, mark = self._until("{", self._form.call_end, self._form.calls_end)
        if mark == "{":
            self._held = "{" + self._held
            self._stage, self._nesting = _Stage.ARGUMENTS, _Nesting()
            return None
        if not mark:
            return None
        self._held = mark + self._held
        self._end_call()
        return ToolDelta(self.count - 1, arguments="{}")

    def _object(self) -> tuple[str, ToolDelta | None]:
        head = _JSON_HEAD.match(self._held)
        if head:
            self._held = self._held[head.end() :]
            self._stage, self._nesting = _Stage.ARGUMENTS, _Nesting()
            return "", self._begin(json.loads(head[1], strict=False))
        text, mark, rest = self._held.partition(self._form.call_end)
        if not mark:
            return "", None
        self._held, self._stage = rest, _Stage.CONTENT
        content, pieces = self._whole(text, mark)
        return content, pieces[0] if pieces else None

    def _whole(self, text: str, mark: str) -> tuple[str, tuple[ToolDelta, ...]]:
        """Reads a call that could not be passed on in pieces, or makes it content."""
        call = _read(text)
        if call is None:
            return self._form.call_begin + text + mark, ()
        begun = self._begin(call[0])
        self.finished = not self._parallel
        return "", (ToolDelta(begun.index, begun.id, begun.name, call[1]),)

    def _arguments(self) -> ToolDelta | None:
        length = self._nesting.push(self._held)
        said, self._held = self._held[:length], self._held[length:]
        if self._nesting.closed:
            self._end_call()
        return ToolDelta(self.count - 1, arguments=said) if said else None

    def _close(self) -> None:
        """Passes over what stands between the arguments and the next thing."""
        marks = (self._form.call_end, self._form.calls_end, self._form.call_begin)
        _, mark = self._until(*filter(None, marks))
        if mark == self._form.call_begin:
            self._stage = self._form_stage()
        elif mark:
            nested = self._form is R1 and mark == self._form.call_end
            self._stage = _Stage.CALLS if nested else _Stage.CONTENT

    def _begin(self, name: str) -> ToolDelta:
        self.count, self._after_call = self.count + 1, True
        return ToolDelta(self.count - 1, f"call_{secrets.token_hex(12)}", name)

    def _end_call(self) -> None:
        self._stage, self.finished = _Stage.CLOSING, not self._parallel

    def _until(self, *marks: str) -> tuple[str, str]:
        """Takes the text before the first of some marks, and that mark, off the front.

        Without one it takes what cannot be part of one; the mark is then "".
        """
        found = [(at, mark) for mark in marks if (at := self._held.find(mark)) >= 0]
        if found:
            at, mark = min(found)
            text, self._held = self._held[:at], self._held[at + len(mark) :]
            return text, mark
        keep = max(partial(self._held, mark) for mark in marks)
        text = self._held[: len(self._held) - keep]
        self._held = self._held[len(text) :]
        return text, ""


class _Nesting:
    """Follows a JSON object to its closing brace, a piece at a time."""

    _NOTED = re.compile(r'["\\{}\[\]]')
    _IN_STRING = re.compile(r'["\\]')

    def __init__(self) -> None:
        self._depth, self._quoted, self._escaped = 0, False, False
        self.closed = False

    def push(self, text: str) -> int:
        """Returns how many characters of `text` belong to the object."""
        at = 0
        while at < len(text) and not self.closed:
            if self._escaped:
                self._escaped, at = False, at + 1
                continue
            pattern = self._IN_STRING if self._quoted else self._NOTED
            found = pattern.search(text, at)
            if found is None:
                return len(text)
            at = found.end()
            self._note(found[0])
        return at

    def _note(self, letter: str) -> None:
        if letter == '"':
            self._quoted = not self._quoted
        elif letter == "\\":
            self._escaped = self._quoted
        else:
            self._depth += 1 if letter in "{[" else -1
            self.closed = self._depth <= 0


def _read(text: str) -> tuple[str, str] | None:
    """Reads a whole call in JSON as its name and the text of its arguments."""
    try:
        call: Any = json.loads(text)
        name = call["name"]
        arguments = call.get("arguments", call.get("parameters"))
        if not isinstance(name, str):
            return None
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments or {}, ensure_ascii=False)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return name, arguments
