"""What one chat request lets a model answer, and how that is read."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from r1jax.answer import AnswerBuilder
from r1jax.engine.guides import Guide, Several
from r1jax.engine.types import SamplingParams
from r1jax.errors import RequestError
from r1jax.serve.chat_request import ChatRequest
from r1jax.serve.errors import bad_request
from r1jax.serve.generation import Choice
from r1jax.serve.structured import Form, check_sampling, refused
from r1jax.text.conversation import tool_format
from r1jax.text.grammar import GrammarGuide
from r1jax.text.thinking import ThoughtGuide
from r1jax.text.tool_calls import ToolCallParser
from r1jax.text.tools import Toolbox

if TYPE_CHECKING:
    from r1jax.llm import LLM


class AnswerPlan:
    """Makes the choices of one request, each with a guide and a builder of its own."""

    def __init__(
        self,
        request: ChatRequest,
        llm: "LLM",
        thinking: bool | None,
        tools: Toolbox | None,
        form: Form | None,
    ) -> None:
        """Writes the grammar that answers must fit, if any.

        Args:
          request: Understood.
          llm: The model.
          thinking: Whether answers begin in thought; None if the model never thinks.
          tools: What it may call.
          form: What it must answer in.

        Raises:
          ApiError: 400, these do not go together.
        """
        self._request, self._llm, self._thinking = request, llm, thinking
        self._tools = tools
        self._format = tool_format(llm.tokenizer.chat_template)
        self._source, self._param = self._grammar(tools, form)
        self._forbidden = request.forbidden(llm.tokenizer, llm.config.vocab_size)

    def check(self, sampling: SamplingParams) -> None:
        """Refuses parameters that the plan leaves no room for.

        Raises:
          ApiError: 400.
        """
        request = self._request
        if self._thinking is None:
            self._check_thoughtless()
        if self._source is None:
            return
        check_sampling(sampling, bool(request.bad_words), self._param)
        if request.continues and request.messages[-1].content:
            raise bad_request(
                f"'{self._param}' for an answer that is begun",
                "a form holds an answer from its first word",
                "leave the last message out",
                "messages",
                "unsupported_parameter",
            )

    def _check_thoughtless(self) -> None:
        limits = {
            "thinking_token_budget": self._request.thinking_token_budget is not None,
            "reasoning_effort": self._request.reasoning_effort not in (None, "none"),
        }
        for name, is_given in limits.items():
            if is_given:
                raise bad_request(
                    f"'{name}' for a model that does not think",
                    "it has no thoughts that could be longer or shorter",
                    f"leave '{name}' out",
                    name,
                    "unsupported_parameter",
                )

    def choice(self, prompt: Sequence[int], sampling: SamplingParams) -> Choice:
        """Makes one choice.

        Raises:
          ApiError: 400, the grammar cannot be used.
        """
        request, parser = self._request, None
        if self._tools is not None:
            parser = ToolCallParser(self._format, self._tools.parallel)
        form = self._form()
        # What a form allows after an empty thought is the answer, even `<think>`.
        bare = self._source is not None and not self._thinking
        builder = AnswerBuilder(
            self._llm.tokenizer,
            request.stop,
            None if bare else self._thinking,
            request.include_stop_str_in_output,
            sampling.min_tokens,
            parser,
            form,
            request.skip_special_tokens,
        )
        guides: list[Guide] = [] if form is None else [form]
        if self._forbidden is not None:
            guides.append(self._forbidden.guide())
        guide = Several(guides) if len(guides) > 1 else next(iter(guides), None)
        return Choice(prompt, sampling, builder, guide)

    def _grammar(
        self, tools: Toolbox | None, form: Form | None
    ) -> tuple[str | None, str]:
        """Gives the grammar, and the parameter that asked for it."""
        tokenizer = self._llm.tokenizer
        if tools is None or not (tools.binds or form is not None):
            return (None, "") if form is None else (form.source, form.param)
        if form is not None and form.rule is None:
            raise bad_request(
                f"'{form.param}' together with 'tools'",
                "an answer of that form could not call them",
                "send one of the two, or a JSON schema",
                form.param,
                "unsupported_parameter",
            )
        rule = None if form is None else form.rule
        return tools.grammar(self._format, tokenizer, rule), "tools"

    def _form(self) -> ThoughtGuide | GrammarGuide | None:
        then = None
        if self._source is not None:
            try:
                then = self._llm.grammars.guide(self._source, f"'{self._param}'")
            except RequestError as error:
                raise refused(error, self._param) from error
        budget = self._request.budget
        if not self._thinking or (budget is None and then is None):
            return then
        return ThoughtGuide(self._llm.grammars.masks, budget, then)
