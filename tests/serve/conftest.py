"""The real application over HTTP, before a model that recites instead of thinking."""

import contextlib
import dataclasses
import json
import logging
import socket
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from r1jax.engine.guides import Guide
from r1jax.engine.types import (
    EngineOptions,
    EngineStats,
    Event,
    PromptLogprob,
    SamplingParams,
)
from r1jax.errors import RequestError
from r1jax.llm import LLM
from r1jax.serve.app import ServeOptions, create_app
from r1jax.text.grammar import Grammars
from r1jax.text.masks import TokenMasks
from r1jax.text.tokenizer import Tokenizer
from text.babble import allowed

BOS, EOS = "<bos>", "<eos>"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜>{% endif %}"
)
THOUGHT, ANSWER = "Ünë pénsée: 1+1 → 2.", "It is 2. 🎉 Done\n"


@pytest.fixture(autouse=True)
def _log() -> Iterator[None]:
    """Takes the command's log handlers away again."""
    yield
    for name in ("r1jax", "uvicorn"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def folder_of_words(tmp_path_factory) -> Path:
    """A tokenizer's files: one token a byte, R1's tags, and a plain chat template."""
    folder = tmp_path_factory.mktemp("tokenizer")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate(letters)}
    backend = Backend(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([BOS, EOS])
    tags = ("<think>", "</think>", "<｜Assistant｜>")
    backend.add_tokens([AddedToken(tag, special=False) for tag in tags])
    backend.save(str(folder / "tokenizer.json"))
    config = {
        "bos_token": BOS,
        "eos_token": EOS,
        "add_bos_token": True,
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def tokenizer(folder_of_words) -> Tokenizer:
    """The tokenizer of `folder_of_words`."""
    return Tokenizer.from_directory(folder_of_words)


def judged(prompt: Sequence[int], count: int) -> tuple[PromptLogprob, ...]:
    """Gives each token of a prompt but the first a log-probability of -0.25."""
    top = ((3, -0.125), (4, -2.0))[:count]
    return tuple(
        (t, None, ()) if not i else (t, -0.25, top) for i, t in enumerate(prompt)
    )


class FakeEngine:
    """Recites a text after any prompt, from a thread per request.

    While `go` is cleared no token comes. `prompts`, `samplings` and `guides` are what
    was submitted, `cancelled` what was called off before its end. Led by a guide, it
    says any other token where the guide does not allow the next one of its text.
    """

    def __init__(self, tokenizer: Tokenizer, text: str) -> None:
        self.tokenizer, self.text = tokenizer, text
        self.options = EngineOptions(max_model_len=256, page_size=32)
        self.max_model_len = 256
        self.prompts: list[list[int]] = []
        self.samplings: list[SamplingParams] = []
        self.guides: list[Guide | None] = []
        self.cancelled: set[int] = set()
        self.finished: list[str] = []
        self.go = threading.Event()
        self.go.set()
        self.failure: str | None = None
        self.compiled = True
        self.pace = 0.0  # seconds between tokens
        self.cached = 0  # prompt tokens said to be found in the cache
        self.threads: list[threading.Thread] = []

    def submit(
        self,
        prompt: Sequence[int],
        sampling: SamplingParams,
        on_event: Callable[[Event], None],
        guide: Guide | None = None,
    ) -> int:
        if max(prompt) >= self.tokenizer.vocab_size or min(prompt) < 0:
            raise RequestError("an id is out of range", "unknown", "use known ones")
        number = len(self.prompts)
        self.prompts.append(list(prompt))
        self.samplings.append(sampling)
        self.guides.append(guide)
        thread = threading.Thread(
            target=self._recite, args=(number, sampling, on_event, guide), daemon=True
        )
        self.threads.append(thread)
        thread.start()
        return number

    def _recite(self, number, sampling, on_event, guide) -> None:
        first = {"cached_tokens": self.cached}
        if sampling.prompt_logprobs is not None:
            first["prompt"] = judged(self.prompts[number], sampling.prompt_logprobs)

        def emit(**fields) -> None:
            if fields.get("finish"):
                self.finished.append(fields["finish"])
            on_event(Event(number, **fields, **first))
            first.clear()

        if sampling.max_tokens == 0:
            return emit(finish="length")

        tokens = self.tokenizer.encode(self.text)
        if sampling.seed is not None:
            tokens += self.tokenizer.encode(str(sampling.seed))
        limit = min(sampling.max_tokens or 1000, self.max_model_len)
        said = self._led([*tokens, self.tokenizer.eos_id], guide)
        for position, token in enumerate(said):
            while not self.go.wait(0.005) and number not in self.cancelled:
                pass
            time.sleep(self.pace)
            if number in self.cancelled:
                return emit(finish="abort")
            if self.failure:
                return emit(finish="error", error=self.failure)
            stops = (self.tokenizer.eos_id, *sampling.stop_token_ids)
            finish = "stop" if token in stops else None
            if finish is None and position + 1 >= limit:
                finish = "length"
            logprobs = {}
            if sampling.logprobs is not None:
                top = [(token, -0.5), (7, float("-inf"))][: sampling.logprobs]
                logprobs = {"logprob": -0.5, "top_logprobs": tuple(top)}
            emit(token=token, finish=finish, **logprobs)
            if finish:
                return None
        return None

    def _led(self, tokens: Sequence[int], guide: Guide | None) -> Iterator[int]:
        """Says tokens as a guide allows them, and others where it does not."""
        if guide is None:
            yield from tokens
            return
        rng, rest = np.random.default_rng(0), list(tokens)
        while True:
            ids = allowed(guide.mask(), self.tokenizer.vocab_size)
            token = rest.pop(0) if rest and rest[0] in ids else int(rng.choice(ids))
            guide.advance(token)
            yield token

    def cancel(self, request_id: int) -> None:
        self.cancelled.add(request_id)

    def stats(self) -> EngineStats:
        return EngineStats(
            drafts=7,
            drafted=21,
            accepted=8,
            running=1,
            waiting=2,
            pages_used=3,
            pages_total=12,
            prompt_tokens=5,
        )

    def close(self) -> None:
        self.cancelled.update(range(len(self.prompts)))
        for thread in self.threads:
            thread.join(5)


class FakeLLM:
    """What the server sees of a loaded model."""

    def __init__(self, tokenizer: Tokenizer, reasoning: bool = True) -> None:
        text = f"{THOUGHT}\n</think>\n\n{ANSWER}" if reasoning else ANSWER
        self.tokenizer = tokenizer
        self.config = types.SimpleNamespace(vocab_size=tokenizer.vocab_size + 3)
        self.engine = FakeEngine(tokenizer, text)
        self.reasoning = reasoning
        self.default_sampling = SamplingParams(temperature=0.6, top_p=0.95)
        self.parameter_count, self.dtype, self.scheme = 1234, "float32", None
        masks = TokenMasks(tokenizer, tokenizer.vocab_size, tokenizer.eos_ids)
        self.grammars = Grammars(masks)

    render = LLM.render

    def close(self) -> None:
        self.engine.close()

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)


@pytest.fixture
def llm(tokenizer) -> Iterator[FakeLLM]:
    """A reasoning model."""
    fake = FakeLLM(tokenizer)
    yield fake
    fake.close()


@pytest.fixture
def plain_llm(tokenizer) -> Iterator[FakeLLM]:
    """A model that does not think."""
    fake = FakeLLM(tokenizer, reasoning=False)
    yield fake
    fake.close()


@dataclasses.dataclass
class Site:
    """A running server: its address, its application, and a client for it."""

    url: str
    app: object
    client: httpx.Client

    def chat(self, **body) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": "1+1?"}], **body}
        return self.client.post("/v1/chat/completions", json=body)

    def complete(self, **body) -> httpx.Response:
        return self.client.post("/v1/completions", json={"prompt": "1+1", **body})

    def events(self, path: str, **body) -> list[dict]:
        """Reads a stream to its end, without the final [DONE]."""
        response = self.client.post(path, json={"stream": True, **body})
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.text.split("\n\n") if line]
        assert lines.pop() == "data: [DONE]"
        return [json.loads(line.removeprefix("data: ")) for line in lines]


@contextlib.contextmanager
def running(llm: FakeLLM, uvicorn_options=None, **options) -> Iterator[Site]:
    """Serves a model on a free port."""
    app = create_app(llm, ServeOptions(**{"names": ["recital", "alias"], **options}))
    config = uvicorn.Config(app, log_config=None, **(uvicorn_options or {}))
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        with httpx.Client(base_url=url, timeout=20) as client:
            yield Site(url, app, client)
    finally:
        app.state.admission.abort()
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def site(llm) -> Iterator[Site]:
    """A server of the reasoning model."""
    with running(llm) as site:
        yield site


@pytest.fixture(scope="session")
def door(tokenizer) -> Iterator[Site]:
    """A server that tests share, for what it refuses at the door."""
    fake = FakeLLM(tokenizer)
    with running(fake) as site:
        yield site
    fake.close()


@pytest.fixture
def plain_site(plain_llm) -> Iterator[Site]:
    """A server of the model that does not think."""
    with running(plain_llm) as site:
        yield site


@pytest.fixture
def serve() -> Callable[..., contextlib.AbstractContextManager[Site]]:
    """Starts servers with options of the test's own."""
    return running


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], None]:
    """Waits until something comes true."""

    def wait(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 5
        while not condition():
            assert time.monotonic() < deadline, "it never came true"
            time.sleep(0.005)

    return wait


@pytest.fixture(scope="session")
def make_real(tokenizer, tiny, tiny_params) -> Iterator[Callable[..., LLM]]:
    """Makes toy models with a real engine, whose cache holds one long request."""
    made = []

    def make(**options) -> LLM:
        limits = {"max_num_seqs": 2, "max_num_batched_tokens": 64, "page_size": 16}
        limits |= {"num_pages": 17, **options}
        llm = LLM(
            "toy",
            tiny("qwen2"),
            tiny_params("qwen2"),
            tokenizer,
            EngineOptions(256, **limits),
            SamplingParams(temperature=0.0),
        )
        llm.engine.wait_until_compiled()
        made.append(llm)
        return llm

    yield make
    for llm in made:
        llm.close()


@pytest.fixture(scope="session")
def real_llm(make_real) -> LLM:
    """A toy model that tests share; leave nothing running on it."""
    return make_real()
