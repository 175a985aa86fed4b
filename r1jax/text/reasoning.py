"""Splits what R1 thought from what it answered, whole or in the middle of a stream.

R1 writes ``<think>`` thoughts ``</think>`` answer. The opening tag stands in the output
(the templates of January 2025, R1-0528) or already in the prompt (February 2025), so a
splitter is told which: `thinking=True` means the output begins inside the thoughts.
Only the first pair counts, and only at the beginning: tags that an answer mentions are
its own words. Newlines at both ends of the thoughts and before the answer belong to the
format and are dropped.
"""

from enum import Enum, auto

OPEN = "<think>"
CLOSE = "</think>"
ASSISTANT = "<｜Assistant｜>"


class _Stage(Enum):
    OPENING = auto()  # blank so far: an opening tag may still come
    REASONING = auto()
    GAP = auto()  # after the closing tag, before the answer's first character
    CONTENT = auto()


class ReasoningSplitter:
    """Splits a stream of text pieces into reasoning and content.

    The concatenated results do not depend on how the text was cut into pieces.
    """

    def __init__(self, thinking: bool) -> None:
        """Starts inside the thoughts if `thinking`, else where a tag may open them."""
        self._thinking = thinking
        self._stage = _Stage.OPENING
        self._held = ""
        self._started = False

    @property
    def is_reasoning(self) -> bool:
        """Tells whether the text pushed so far ends inside the thoughts."""
        if self._stage is _Stage.OPENING:
            return self._thinking
        return self._stage is _Stage.REASONING

    @property
    def has_reasoned(self) -> bool:
        """Tells whether the text had thoughts at all, even empty ones."""
        return self._started or self._thinking

    def push(self, text: str) -> tuple[str, str]:
        """Returns the new `(reasoning, content)`; a possible tag is held back."""
        self._held += text
        reasoning = ""
        if self._stage is _Stage.OPENING:
            self._open()
        if self._stage is _Stage.REASONING:
            reasoning = self._reason()
        if self._stage is _Stage.GAP:
            self._held = self._held.lstrip("\n")
            if self._held:
                self._stage = _Stage.CONTENT
        if self._stage is not _Stage.CONTENT:
            return reasoning, ""
        content, self._held = self._held, ""
        return reasoning, content

    def flush(self) -> tuple[str, str]:
        """Returns the rest, once the text has ended; what is unclosed is reasoning."""
        held, self._held = self._held, ""
        if self.is_reasoning:
            return held.strip("\n"), ""
        return "", held

    def _open(self) -> None:
        text = self._held.lstrip()
        if text.startswith(OPEN):
            text = text[len(OPEN) :]
            self._begin_reasoning(text)
        elif not OPEN.startswith(text):
            if self._thinking:
                self._begin_reasoning(self._held)
            else:
                self._stage = _Stage.CONTENT

    def _begin_reasoning(self, text: str) -> None:
        self._stage, self._started = _Stage.REASONING, True
        self._fresh, self._held = True, text

    def _reason(self) -> str:
        if self._fresh:
            self._held = self._held.lstrip("\n")
        thought, closed, rest = self._held.partition(CLOSE)
        if closed:
            self._stage, self._held = _Stage.GAP, rest
            return thought.rstrip("\n")
        emit = thought[: len(thought) - partial(thought, CLOSE)].rstrip("\n")
        self._held = thought[len(emit) :]
        self._fresh = self._fresh and not emit
        return emit


def split(text: str, thinking: bool) -> tuple[str | None, str]:
    """Splits a whole output into `(reasoning, content)`.

    Args:
        text: what the model wrote.
        thinking: whether the prompt had already opened the thoughts.

    Returns:
        The reasoning, None if there was none (and "" if it was empty), and the content.
    """
    splitter = ReasoningSplitter(thinking)
    pairs = (splitter.push(text), splitter.flush())
    reasoning, content = ("".join(parts) for parts in zip(*pairs, strict=True))
    return (reasoning if splitter.has_reasoned else None), content


def prompt_opens_thinking(prompt_text: str) -> bool:
    """Tells whether a rendered prompt leaves the model inside its thoughts.

    Looks only at what follows the last assistant marker, so tags that a user typed do
    not count; an answer's prefix that thinks without having closed does. A prompt
    without the marker of the R1 family must end in the tag itself.
    """
    _, marker, tail = prompt_text.rpartition(ASSISTANT)
    if tail.rstrip().endswith(OPEN):
        return True
    return bool(marker) and tail.lstrip().startswith(OPEN) and CLOSE not in tail


def partial(text: str, tag: str) -> int:
    """Counts the characters at the end of `text` that may begin `tag`."""
    longest = min(len(tag) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if text.endswith(tag[:n])), 0)
