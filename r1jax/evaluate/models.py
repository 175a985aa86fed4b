"""Whom to ask: a checkpoint in this process, or any server of OpenAI's API."""

import dataclasses
from typing import Protocol

from r1jax.errors import R1jaxError
from r1jax.llm import LLM
from r1jax.remote import Answer, AskError, Sampling


class Model(Protocol):
    """Anything that answers, `r1jax.remote.Remote` too; from many threads at once."""

    name: str
    concurrency: int  # how many questions at once serve it best

    def ask(self, question: str, sampling: Sampling, seed: int) -> Answer:
        """Answers one message without a system prompt.

        Raises:
          AskError: No answer came.
        """


class InProcess:
    """A loaded model."""

    def __init__(self, llm: LLM) -> None:
        """Takes a model, which remains the caller's to close."""
        self._llm = llm
        self.name = llm.name
        self.concurrency = 2 * llm.engine.options.max_num_seqs

    def ask(self, question: str, sampling: Sampling, seed: int) -> Answer:
        """Answers as the server does: what is not set is the checkpoint's own."""
        params = dataclasses.replace(
            self._llm.default_sampling, **dataclasses.asdict(sampling), seed=seed
        )
        try:
            said = self._llm.chat([{"role": "user", "content": question}], params)
        except (R1jaxError, RuntimeError) as error:
            raise AskError("the model gave no answer", str(error)) from error
        if said.finish not in ("stop", "length"):
            raise AskError("the model gave no whole answer", f"it ended: {said.finish}")
        return Answer(said.content, said.reasoning, len(said.token_ids), said.finish)
