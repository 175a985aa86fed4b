"""The quick way out writes what the plain one would."""

import asyncio
import json
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax.answer import Delta, TokenLogprob
from r1jax.serve.answering import ChunkWriter, stream
from r1jax.serve.chat_request import ChatRequest
from r1jax.serve.chat_shape import ChatShape
from r1jax.serve.completion_request import CompletionRequest
from r1jax.serve.completions import CompletionShape, Prompt
from r1jax.serve.job import Job, Usage
from r1jax.serve.protocol import StreamOptions
from r1jax.serve.stream import write_event

TOKENIZER = SimpleNamespace(token_bytes=lambda index: b"x")
LOGPROB = TokenLogprob(1, -0.5, (), 0, False)
WORDS = st.text(st.characters(exclude_categories=["Cs"]))
DELTAS = st.builds(
    Delta,
    reasoning=WORDS | st.just(""),
    content=WORDS | st.just(""),
    token_ids=st.just((1,)),
    logprobs=st.sampled_from([(), (LOGPROB,)]),
    finish=st.sampled_from([None, None, None, "stop"]),
)


def chat(thinking, **more):
    body = {"messages": [{"role": "user", "content": "a"}], **more}
    return ChatShape(TOKENIZER, "m", thinking, ChatRequest.parse(body))


def text(*echoes):
    prompts = [Prompt([1], echo, [0]) for echo in echoes]
    request = CompletionRequest.parse({"prompt": "a"})
    return CompletionShape(TOKENIZER, "m", prompts, request)


SHAPES = {
    "chat": lambda: chat(True),
    "chat with logprobs": lambda: chat(None, logprobs=True),
    "chat without thoughts": lambda: chat(True, include_reasoning=False),
    "chat in one text": lambda: chat(True, separate_reasoning=False),
    "chat with thoughts at once": lambda: chat(True, stream_reasoning=False),
    "text": lambda: text("ec\0ho", ""),
}


def plainly(job, deltas):
    """The meaning: each chunk of each delta, written anew."""
    options, usage = job.stream_options, Usage(job.prompt_tokens)
    for index, delta in deltas:
        usage.add(delta)
        for chunk in job.shape.chunks(index, delta):
            if options:
                always = options.continuous_usage_stats
                chunk["usage"] = usage.body() if always else None
            yield write_event(chunk)


@settings(deadline=None, max_examples=30)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("always", [None, False, True])
@given(deltas=st.lists(st.tuples(st.sampled_from([0, 1]), DELTAS), max_size=12))
def test_prepared_chunks_equal_those_written_anew(shape, always, deltas):
    options = (
        always
        if always is None
        else StreamOptions(include_usage=True, continuous_usage_stats=always)
    )
    one, other = SHAPES[shape](), SHAPES[shape]()
    one._head["id"] = other._head["id"] = "same"
    writer = ChunkWriter(Job([], one, 3, True, options))
    quick = [writer.write(index, delta) for index, delta in deltas]
    assert "".join(quick) == "".join(plainly(Job([], other, 3, True, options), deltas))


def test_deltas_that_wait_go_out_in_one_piece():
    class Generation:
        async def deltas(self):
            yield [(0, Delta(content=letter)) for letter in "abc"]
            yield [(0, Delta(content="d", finish="stop"))]

    async def pieces():
        job = Job([], text(""), 3, True, None)
        return [piece async for piece in stream(job, Generation())]

    first, second, last = asyncio.run(pieces())
    texts = [
        json.loads(event[6:])["choices"][0]["text"]
        for event in (first + second).split("\n\n")[:-1]
    ]
    assert texts == ["a", "b", "c", "d"]
    assert first.count("\n\n") == 3
    assert last == "data: [DONE]\n\n"
