"""A server of OpenAI's chat completions, asked from many threads at once.

It needs httpx, which comes with the extras evaluate and train.
"""

import dataclasses
import email.utils
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from r1jax.command import require
from r1jax.errors import ConfigError, R1jaxError

_BUSY = (408, 429, 500, 502, 503, 504)
_NO_ENTRY = (401, 403)
_ATTEMPTS = 8
_LONGEST_WAIT = 60.0  # seconds


class AskError(R1jaxError):
    """A question that got no answer."""


@dataclass(frozen=True)
class Sampling:
    """How all answers are drawn; the defaults are R1's paper's (section 3)."""

    temperature: float = 0.6
    top_p: float = 0.95
    max_tokens: int = 32768


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
      content: The answer, without the thoughts where the server told them apart.
      reasoning: The thoughts; empty where they were not told apart.
      tokens: How many were generated, thoughts included.
      finish: "stop", or "length" where it was cut off.
    """

    content: str
    reasoning: str
    tokens: int
    finish: str


class Remote:
    """A server of OpenAI's chat completions.

    It is asked again, up to eight times, when it is busy (408, 429, 5xx) or cannot be
    reached: after what it says in Retry-After, or 1, 2, 4 ... 60 seconds.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        api_key: str | None = None,
        timeout: float = 3600.0,
        concurrency: int = 16,
    ) -> None:
        """Finds the server, and its model where none is named.

        Args:
          url: The address, with or without the /v1 at its end.
          model: What to ask for; the first one that the server lists by default.
          api_key: OPENAI_API_KEY of the environment by default.
          timeout: Seconds in which a whole answer must come.
          concurrency: Questions at once.

        Raises:
          AskError: It cannot be reached, or lists no model.
          ConfigError: httpx is not installed, or the URL is no address.
        """
        require("evaluate", "httpx")
        import httpx

        address = url.rstrip("/")
        self._url = address if address.endswith("/v1") else f"{address}/v1"
        if not address.startswith(("http://", "https://")):
            raise ConfigError(
                f"{url!r} is no address",
                "it begins with http:// or https://",
                "write it as http://127.0.0.1:8000",
            )
        key = api_key or os.environ.get("OPENAI_API_KEY") or "none"
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(timeout, connect=10.0),
            limits=httpx.Limits(max_connections=None),
        )
        self.name = model or self._first_model()
        self.concurrency = concurrency

    def ask(self, question: str, sampling: Sampling, seed: int) -> Answer:
        """Asks for a chat completion."""
        body = {
            "model": self.name,
            "messages": [{"role": "user", "content": question}],
            "seed": seed,
            **dataclasses.asdict(sampling),
        }
        reply = self._send("POST", "/chat/completions", body)
        try:
            choice = reply["choices"][0]
            message = choice["message"]
            thought = message.get("reasoning_content") or message.get("reasoning") or ""
            tokens = int(reply["usage"]["completion_tokens"])
            finish = choice["finish_reason"] or "stop"
            content = message.get("content") or ""
            if not (isinstance(content, str) and isinstance(thought, str)):
                raise TypeError("the content is no string")
            return Answer(content, thought, tokens, finish)
        except (LookupError, AttributeError, TypeError, ValueError) as error:
            raise AskError(
                f"{self._url} answered with no chat completion",
                f"{type(error).__name__}: {error}",
                "is it a server of OpenAI's API?",
            ) from None

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def _first_model(self) -> str:
        reply = self._send("GET", "/models", None)
        try:
            return str(reply["data"][0]["id"])
        except (KeyError, IndexError, TypeError):
            raise AskError(
                f"{self._url} lists no model",
                "nobody knows what to ask it for",
                "name the model to ask for",
            ) from None

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        import httpx

        for attempt in range(_ATTEMPTS):
            last = attempt + 1 == _ATTEMPTS
            try:
                reply = self._client.request(method, self._url + path, json=body)
            except httpx.ReadTimeout:
                limit = self._client.timeout.read
                raise AskError(
                    f"{self._url} did not answer within {limit:g} s",
                    "an answer may be as long as its limit of tokens allows",
                    "wait longer for an answer, or ask for fewer tokens",
                ) from None
            except httpx.TransportError as error:
                if last or method == "GET":
                    raise AskError(
                        f"{self._url} cannot be reached",
                        str(error) or type(error).__name__,
                        "start the server, or mend the address",
                    ) from None
                time.sleep(_pause(attempt, None))
                continue
            if reply.status_code == 200:
                try:
                    return reply.json()
                except ValueError:
                    raise AskError(
                        f"{self._url}{path} answered with no JSON",
                        reply.text[:300] or "the answer was empty",
                        "is it a server of OpenAI's API?",
                    ) from None
            if last or reply.status_code not in _BUSY:
                raise AskError(
                    f"{self._url}{path} answered with status {reply.status_code}",
                    reply.text[:300],
                    "give the key that the server wants"
                    if reply.status_code in _NO_ENTRY
                    else "ask for something that the server can do, or wait",
                )
            time.sleep(_pause(attempt, reply.headers.get("retry-after")))
        raise AssertionError("the last attempt returns or raises")


def _pause(attempt: int, retry_after: str | None) -> float:
    """Gives the seconds to wait; Retry-After is a number of them, or a date."""
    wait = 2.0**attempt
    if retry_after is not None:
        try:
            wait = float(retry_after)
        except ValueError:
            try:
                when = email.utils.parsedate_to_datetime(retry_after)
                wait = when.timestamp() - time.time()
            except ValueError:
                pass
    return min(max(wait, 0.0), _LONGEST_WAIT)
