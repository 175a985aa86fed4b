"""Log-probabilities and tokens, the way the endpoints write them."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from r1jax.answer import TokenLogprob
from r1jax.engine.types import PromptLogprob
from r1jax.text.tokenizer import Tokenizer

_LOWEST = -9999.0  # JSON has no minus infinity; vLLM writes this too


def finite(logprob: float) -> float:
    """Gives a log-probability that JSON can write."""
    return logprob if math.isfinite(logprob) else _LOWEST


def token_name(tokenizer: Tokenizer, token_id: int) -> str:
    r"""Writes a token as text; half a character as "bytes:" and its bytes in hex.

    An id of which the tokenizer knows no token is "token_id:" and its number.
    """
    data = tokenizer.token_bytes(token_id)
    if not data:
        return f"token_id:{token_id}"
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def token_entry(tokenizer: Tokenizer, entry: TokenLogprob, ids: bool) -> dict[str, Any]:
    """Writes a token as chat completions and responses do.

    Args:
      tokenizer: Knows the tokens' text.
      entry: The token, and its best alternatives.
      ids: Writes "token_id:7" for a token instead of its text.
    """

    def token(token_id: int, logprob: float) -> dict[str, Any]:
        data = tokenizer.token_bytes(token_id)
        text = f"token_id:{token_id}" if ids else data.decode("utf-8", "replace")
        return {"token": text, "logprob": finite(logprob), "bytes": list(data)}

    top = [token(*alternative) for alternative in entry.top]
    return {**token(entry.token_id, entry.logprob), "top_logprobs": top}


def completion_entries(
    tokenizer: Tokenizer, entries: Iterable["PlacedLogprob"], ids: bool
) -> dict[str, Any]:
    """Writes tokens as text completions do: four lists of one length.

    The chosen token is among the likeliest ones wherever it ranks. A prompt's first
    token has neither.
    """

    def name(token_id: int) -> str:
        return f"token_id:{token_id}" if ids else token_name(tokenizer, token_id)

    tokens, logprobs, tops, offsets = [], [], [], []
    for token_id, logprob, top, offset in entries:
        tokens.append(name(token_id))
        offsets.append(offset)
        logprobs.append(None if logprob is None else finite(logprob))
        best: dict[str, float] = {}
        for each, value in () if logprob is None else (*top, (token_id, logprob)):
            best.setdefault(name(each), finite(value))  # of one name the likelier
        tops.append(best or None)
    return {
        "tokens": tokens,
        "token_logprobs": logprobs,
        "top_logprobs": tops,
        "text_offset": offsets,
    }


PlacedLogprob = tuple[int, float | None, Sequence[tuple[int, float]], int]


def prompt_entries(
    tokenizer: Tokenizer, prompt: Sequence[PromptLogprob]
) -> list[dict[str, Any] | None]:
    """Writes a prompt's log-probabilities as vLLM does: by token id, likeliest ranked.

    The prompt's own token comes first; it has a rank where it is among the likeliest.
    """
    written: list[dict[str, Any] | None] = []
    for token_id, logprob, top in prompt:
        if logprob is None:
            written.append(None)
            continue
        ranks = {likely: rank for rank, (likely, _) in enumerate(top, 1)}
        written.append(
            {
                str(each): {
                    "logprob": finite(value),
                    "rank": ranks.get(each),
                    "decoded_token": token_name(tokenizer, each),
                }
                for each, value in ((token_id, logprob), *top)
            }
        )
    return written
