"""What may be said next: rules that follow an answer token by token."""

from typing import Protocol

import numpy as np


class Guide(Protocol):
    """Follows one answer, and says which tokens may come next.

    The engine calls it on its own thread, for one sequence, in order. Masks are uint32
    [ceil(V / 32)]: token i may come if bit i % 32 of word i // 32 is set.
    """

    @property
    def binds(self) -> bool:
        """Whether the next token's mask depends on all tokens before it.

        While it does, the sequence takes no part in a step before its newest token has
        been read.
        """

    def mask(self) -> np.ndarray | None:
        """Returns the mask of the next token; None allows every one."""

    def advance(self, token: int) -> None:
        """Takes the answer's next token, which the mask allowed; must not raise."""
