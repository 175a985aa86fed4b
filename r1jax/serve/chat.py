"""Chat completions: from messages to a prompt, and to what may be answered."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from r1jax.serve.answer_plan import AnswerPlan
from r1jax.serve.chat_request import ChatRequest
from r1jax.serve.chat_shape import ChatShape
from r1jax.serve.errors import bad_request
from r1jax.serve.extras import extras
from r1jax.serve.job import Job, check_length
from r1jax.serve.structured import Form, form_of
from r1jax.serve.tool_request import toolbox
from r1jax.text.conversation import Turn, instructed
from r1jax.text.tokenizer import Tokenizer
from r1jax.text.tools import Toolbox

if TYPE_CHECKING:
    from r1jax.llm import LLM

_SWITCHES = ("thinking", "enable_thinking")
_OWN_VARIABLES = {
    "messages",
    "tools",
    "add_generation_prompt",
    "bos_token",
    "eos_token",
}


def prepare(body: dict[str, Any], llm: "LLM", model: str) -> Job:
    """Validates a chat request and turns it into choices for the engine.

    Raises:
      ApiError: Something in the request is wrong.
      TextError: The chat template refuses the messages.
      RequestError: The sampling parameters are out of range.
    """
    request = ChatRequest.parse(body)
    request.check_ids(llm.tokenizer.vocab_size)
    if request.top_logprobs is not None and not request.logprobs:
        raise bad_request(
            "'top_logprobs' without 'logprobs'",
            "alternatives come beside the tokens' own log-probabilities",
            "set 'logprobs' to true",
            "top_logprobs",
        )
    if request.max_completion_tokens is not None:
        request.max_tokens = request.max_completion_tokens
    read = _read(request, llm)
    limit = llm.engine.max_model_len
    ids = request.truncated(read.ids, limit)
    check_length(len(ids), limit, "messages")
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    samplings = request.sampling(llm.default_sampling, limit, logprobs)
    plan = AnswerPlan(request, llm, read.thinking, read.tools, read.form)
    plan.check(samplings[0])
    return Job(
        [plan.choice(ids, sampling) for sampling in samplings],
        ChatShape(llm.tokenizer, model, read.thinking, request),
        len(ids),
        request.stream,
        request.stream_options,
        extras=extras(request, llm.tokenizer, [ids] * request.n, at_top=True),
    )


def prompt(body: dict[str, Any], llm: "LLM") -> list[int]:
    """Gives the prompt that a chat's body means, however long.

    Raises:
      ApiError: Something in the request is wrong.
      TextError: The chat template refuses the messages.
    """
    return _read(ChatRequest.parse(body), llm).ids


class _Read(NamedTuple):
    """A prompt, and what the answer may be; `thinking` is `LLM.render`'s."""

    ids: list[int]
    thinking: bool | None
    tools: Toolbox | None
    form: Form | None


def _read(request: ChatRequest, llm: "LLM") -> _Read:
    tools = toolbox(request.tools, request.tool_choice, request.parallel_tool_calls)
    form = form_of(request.response_format, request.structured_outputs)
    text, thinking = llm.render(
        _turns(request, form),
        _wants_thinking(request),
        _template_variables(request, llm.tokenizer),
        tools,
        request.continues,
    )
    return _Read(llm.tokenizer.encode(text), thinking, tools, form)


def _turns(request: ChatRequest, form: Form | None) -> Sequence[Turn]:
    """Gives the messages as the template sees them."""
    turns = [message.turn() for message in request.messages]
    last = request.messages[-1]
    if request.continues and last.thought is not None:
        turns[-1]["reasoning_content"] = last.thought
    if form is not None and form.description:
        return instructed(turns, form.description)
    return turns


def _template_variables(request: ChatRequest, tokenizer: Tokenizer) -> dict[str, Any]:
    """Gives the template its variables, the two names of the switch always among them.

    Raises:
      ApiError: `chat_template_kwargs` has a name that the template does not read.
    """
    given = request.chat_template_kwargs
    template = tokenizer.chat_template
    known = set(_SWITCHES) | (template.variables if template else set())
    for name in given:
        if name not in known - _OWN_VARIABLES:
            raise bad_request(
                f"unknown template variable '{name[:80]}'",
                "the model's chat template does not read it",
                "leave it out of 'chat_template_kwargs'",
                "chat_template_kwargs",
            )
    for name in _SWITCHES:
        if not isinstance(given.get(name, True), bool):
            raise bad_request(
                f"'{name}' is not true or false",
                "it switches thinking on or off",
                "send a boolean",
                "chat_template_kwargs",
            )
    if request.add_generation_prompt is not None and not request.continues:
        given = given | {"add_generation_prompt": request.add_generation_prompt}
    return given | dict.fromkeys(_SWITCHES, _wants_thinking(request))


def _wants_thinking(request: ChatRequest) -> bool:
    """Tells whether nothing in the request switches thinking off."""
    if request.thinking is not None and request.thinking.type == "disabled":
        return False
    if request.reasoning_effort == "none":
        return False
    return all(request.chat_template_kwargs.get(name, True) for name in _SWITCHES)
