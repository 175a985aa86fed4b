"""The blocks of code in README and docs/: found, compiled and run."""

import contextlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

ROOT = Path(__file__).parent.parent
FENCE = re.compile(
    r"(?:^<!-- not run: ([^\n]*) -->\n)?^```(\w*)\n(.*?)^```$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """A block of code in a page; with a reason where it cannot run."""

    page: Path
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        """Says where it stands."""
        return f"{self.page.name}:{self.line}"

    def compiled(self) -> CodeType:
        """Compiles it, so that errors name the page's line."""
        return compile("\n" * self.line + self.text, str(self.page), "exec")


def blocks_of(page: Path, *languages: str) -> list[Block]:
    """Lists a page's blocks in some languages."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text[: at.start(2)].count("\n") + 1, at[2], at[3], at[1])
        for at in FENCE.finditer(text)
        if at[2] in languages
    ]


def run(page: Path) -> str:
    """Runs a page's Python in order; what is promised behind a `print` must come.

    Returns:
      All that was printed.
    """
    names: dict[str, object] = {}
    said = ""
    for block in blocks_of(page, "python"):
        code = block.compiled()
        if block.reason is None:
            heard = io.StringIO()
            with contextlib.redirect_stdout(heard):
                exec(code, names)
            promised = re.findall(r"^print\(.*\)  # (.*)$", block.text, re.M)
            lines = heard.getvalue().splitlines()
            assert set(promised) <= set(lines), f"{block}: {promised}, and came {lines}"
            said += heard.getvalue()
    return said
