"""Words: tokens, prompts, thoughts, tools and forms of answers. Knows no JAX."""

from r1jax.text.chat import ChatTemplate
from r1jax.text.reasoning import ReasoningSplitter, prompt_opens_thinking, split
from r1jax.text.stops import StopStrings
from r1jax.text.tokenizer import Detokenizer, Tokenizer

__all__ = [
    "ChatTemplate",
    "Detokenizer",
    "ReasoningSplitter",
    "StopStrings",
    "Tokenizer",
    "prompt_opens_thinking",
    "split",
]
