"""Turns a conversation into a prompt that ends where the model is to go on.

A model that reasons is made to think, or given an empty thought, whatever its template
does about that; and it can be made to go on with an answer that is begun.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from r1jax.text import conversation
from r1jax.text.reasoning import prompt_opens_thinking
from r1jax.text.tokenizer import Tokenizer
from r1jax.text.tools import Toolbox

THINK = "<think>\n"
NO_THOUGHT = "\n\n</think>\n\n"


def render(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    thinking: bool | None,
    variables: Mapping[str, Any],
    toolbox: Toolbox | None = None,
    continues: bool = False,
) -> tuple[str, bool | None]:
    """Returns a conversation as a prompt, and whether the answer begins in thought.

    Where the template does not open the thinking, `<think>` is added. With `thinking`
    off the prompt ends in an empty thought, as R1 writes it when it answers at once.

    Args:
        tokenizer: has the chat template.
        messages: OpenAI's.
        thinking: whether the model is to think; None for one that cannot.
        variables: for the template; with `add_generation_prompt` False no answer is
            opened.
        toolbox: the functions that the model may call.
        continues: goes on with the last message, an answer, its thoughts in
            `reasoning_content`; one that has words thinks no more.

    Raises:
        TextError: the template refuses the messages, or there is none.
    """
    if continues:
        last = messages[-1]
        start = conversation.before_answer(
            tokenizer, messages[:-1], toolbox, **variables
        )
        thought, content = last.get("reasoning_content"), last.get("content") or ""
        if thinking is None:
            return start + content, None
        if content or thought is not None:
            return _continued(start, thought, content)
        return _opened(start, thinking)
    text, inside = conversation.render(tokenizer, messages, toolbox, **variables)
    if variables.get("add_generation_prompt", True) or inside:
        return _opened(text, thinking)
    return text, None if thinking is None else prompt_opens_thinking(text)


def _opened(text: str, thinking: bool | None) -> tuple[str, bool | None]:
    """Ends a prompt where an answer begins, in thought or after it."""
    if thinking is None:
        return text, None
    opened = prompt_opens_thinking(text)
    if thinking:
        return (text if opened else text + THINK), True
    if text.rstrip().endswith("</think>"):
        return text, False
    return (text.rstrip("\n") if opened else text + "<think>") + NO_THOUGHT, False


def _continued(start: str, thought: str | None, content: str) -> tuple[str, bool]:
    """Ends a prompt in the middle of an answer."""
    # Some templates write an empty thought, or open one, of their own accord.
    start = re.sub(r"<think>\s*(</think>\s*)?$", "", start)
    if thought is None:
        return f"{start}<think>{NO_THOUGHT}{content}", False
    if not content:
        return start + THINK + thought, True
    return f"{start}{THINK}{thought}\n</think>\n\n{content}", False
