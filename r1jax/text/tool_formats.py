"""How models write tool calls, and how they are shown the results.

R1's family has marks of its own, which are tokens in R1 and plain text in its distills;
other models are asked for JSON between `<tool_call>` tags, as Hermes and Qwen write it.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ToolFormat:
    """The text of tool calls.

    All calls together stand between `calls_begin` and `calls_end` (perhaps empty), each
    is `head`, its name, `middle`, its arguments and `tail`; a line end parts two.

    Attributes:
        call_begin: the mark with which each call begins.
        call_end: the mark with which each ends.
        separator: what stands before the name, if a mark does.
    """

    calls_begin: str
    calls_end: str
    call_begin: str
    call_end: str
    separator: str
    head: str
    middle: str
    tail: str

    @property
    def opens(self) -> tuple[str, ...]:
        """The marks that begin calls."""
        return tuple(filter(None, (self.calls_begin, self.call_begin)))

    def write(self, calls: Iterable[tuple[str, str]]) -> str:
        """Writes calls, given as (name, JSON text of the arguments)."""
        written = (self.head + name + self.middle + a + self.tail for name, a in calls)
        return self.calls_begin + "\n".join(written) + self.calls_end


_CALL, _SEP = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>"
_OUTPUTS = ("<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>")
_OUTPUT = ("<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>")

R1 = ToolFormat(
    calls_begin="<｜tool▁calls▁begin｜>",
    calls_end="<｜tool▁calls▁end｜>",
    call_begin=_CALL,
    call_end="<｜tool▁call▁end｜>",
    separator=_SEP,
    head=f"{_CALL}function{_SEP}",
    middle="\n```json\n",
    tail="\n```<｜tool▁call▁end｜>",
)
HERMES = ToolFormat(
    calls_begin="",
    calls_end="",
    call_begin="<tool_call>",
    call_end="</tool_call>",
    separator="",
    head='<tool_call>\n{"name": "',
    middle='", "arguments": ',
    tail="}\n</tool_call>",
)
_MARKS = re.compile("(<｜[^｜<>]*｜>|</?tool_call>)")


def pieces(text: str) -> list[tuple[str, bool]]:
    """Cuts a format's text at its marks: (piece, whether it is a mark)."""
    cut = _MARKS.split(text)
    return [(piece, bool(at % 2)) for at, piece in enumerate(cut) if piece]


def r1_outputs(results: Sequence[str], parted: bool) -> str:
    """Writes results as R1's templates do; newer ones have a line end between two."""
    wrapped = (_OUTPUT[0] + result + _OUTPUT[1] for result in results)
    return _OUTPUTS[0] + ("\n" if parted else "").join(wrapped) + _OUTPUTS[1]


def hermes_responses(results: Sequence[str]) -> str:
    """Writes results as the next user turn."""
    return "\n".join(f"<tool_response>\n{r}\n</tool_response>" for r in results)
