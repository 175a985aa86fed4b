"""Many streams at once on a real model: each is what it would be alone."""

import asyncio
import json
from urllib.parse import urlsplit

import jax
import pytest

import r1jax
from r1jax.errors import CheckpointError
from serve.fuzz import post

TOKENS = 10
TOPICS = ("rain", "iron", "Paris", "bread", "the moon", "music", "whales", "glass")


@pytest.fixture(scope="module")
def smollm():
    """The small real model, of which thirty-two run at a time."""
    hurried = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)  # it has work to do
    try:
        llm = r1jax.load("smollm2", max_model_len=256, max_num_seqs=32, page_size=32)
        llm.engine.wait_until_compiled()
    except CheckpointError as error:
        pytest.skip(str(error))
    finally:
        jax.config.update("jax_disable_most_optimizations", hurried)
    yield llm
    llm.close()


def prompts(count: int) -> list[str]:
    return [f"Fact {i} about {TOPICS[i % len(TOPICS)]}:" for i in range(count)]


async def read(address, prompt: str) -> str:
    """Streams one answer, and joins it."""
    body = {"prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "stream": True}
    reader, writer = await asyncio.open_connection(*address)
    writer.write(post("/v1/completions", json.dumps(body).encode()))
    answer = await reader.read()
    writer.close()
    events = [
        json.loads(line[6:])
        for line in answer.decode().splitlines()
        if line.startswith("data: {")
    ]
    return "".join(event["choices"][0]["text"] for event in events)


@pytest.mark.slow(minutes=8)
@pytest.mark.parametrize("count", [32, 256])
def test_each_of_many_streams_equals_its_solo_text(serve, smollm, count):
    asked = prompts(count)
    greedy = r1jax.SamplingParams(temperature=0, max_tokens=TOKENS)
    alone = [smollm.generate(prompt, greedy)[0].content for prompt in asked]
    with serve(smollm) as site:
        parts = urlsplit(site.url)
        address = parts.hostname, parts.port

        async def all_at_once() -> list[str]:
            return await asyncio.gather(*(read(address, each) for each in asked))

        together = asyncio.run(all_at_once())
    assert together == alone
    assert len(set(together)) > count // 2
    assert smollm.engine.stats().pages_used == 0
