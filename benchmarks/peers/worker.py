"""A worker: one engine in a process of its own, told what to do a line at a time.

The driver writes a line of JSON, {"measure": "decode", "prompts": [...], "new": 64},
and reads one back. In between the worker sleeps in `readline`.
"""

import json
import os
import sys
from collections.abc import Sequence
from typing import Protocol


class Measured(Protocol):
    """What is measured: by methods of any name that take and return JSON."""

    version: str


class Peer(Measured, Protocol):
    """An engine, with the methods that engines have."""

    def decode(
        self, prompts: Sequence[Sequence[int]], new: int
    ) -> tuple[float, list[list[int]]]:
        """Continues all prompts at once, greedily, by `new` tokens after the first.

        Returns:
          Seconds from the moment every prompt has its first token to the last token,
          and each answer, first token included.
        """
        ...

    def prefill(self, prompt: Sequence[int]) -> tuple[float, int]:
        """Returns the seconds from a prompt to its first token, and that token."""
        ...

    def logits(self, prompt: Sequence[int]) -> list[float]:
        """Returns the logits behind the prompt's last token."""
        ...


def serve(peer: Measured) -> None:
    """Answers the driver's lines until it closes the pipe."""
    # Libraries print where they please; the answers get the real standard output.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    answers.write(json.dumps({"version": peer.version}) + "\n")
    answers.flush()
    for line in sys.stdin:
        asked = json.loads(line)
        measure = getattr(peer, asked.pop("measure"))
        answers.write(json.dumps(measure(**asked)) + "\n")
        answers.flush()
