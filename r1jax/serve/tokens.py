"""Text to token ids and back, in vLLM's shapes."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from r1jax.serve import chat
from r1jax.serve.errors import bad_request
from r1jax.serve.logprobs import token_name
from r1jax.serve.protocol import Body

if TYPE_CHECKING:
    from r1jax.llm import LLM


class TokenizeText(Body):
    """A text to encode as a completion's prompt would be."""

    prompt: str
    add_special_tokens: bool = True
    return_token_strs: bool = False


class TokenizeChat(Body):
    """Messages to encode as a chat completion would; chat reads what they hold."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = Field([])
    thinking: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] = Field({})
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: Literal[False] = False
    return_token_strs: bool = False


class DetokenizeRequest(Body):
    """Token ids to write as text, control tokens included."""

    tokens: list[int] = Field(max_length=2**20)


def tokenize(body: dict[str, Any], llm: "LLM", model: str) -> dict[str, Any]:
    """Encodes a text, or the messages of a conversation as a chat's prompt.

    Raises:
      ApiError: Something in the request is wrong.
      TextError: The chat template refuses the messages.
    """
    request: TokenizeText | TokenizeChat
    if "messages" in body:
        request = TokenizeChat.parse(body)
        own = {"add_special_tokens", "return_token_strs"}
        ids = chat.prompt(request.model_dump(exclude=own, exclude_unset=True), llm)
    else:
        request = TokenizeText.parse(body)
        special = request.add_special_tokens
        encode = llm.tokenizer.encode_prompt if special else llm.tokenizer.encode
        ids = encode(request.prompt)
    answer: dict[str, Any] = {
        "count": len(ids),
        "max_model_len": llm.engine.max_model_len,
        "tokens": ids,
    }
    if request.return_token_strs:
        answer["token_strs"] = [token_name(llm.tokenizer, token) for token in ids]
    return answer


def detokenize(body: dict[str, Any], llm: "LLM", model: str) -> dict[str, Any]:
    """Decodes token ids.

    Raises:
      ApiError: Something in the request is wrong, such as an id without a token.
    """
    tokens = DetokenizeRequest.parse(body).tokens
    size = llm.tokenizer.vocab_size
    for token in tokens:
        if not 0 <= token < size:
            raise bad_request(
                f"'tokens' has the id {token}",
                f"the model's ids go from 0 to {size - 1}",
                "send ids of this model's tokenizer",
                "tokens",
                "invalid_value",
            )
    return {"prompt": llm.tokenizer.decode(tokens, skip_special=False)}
