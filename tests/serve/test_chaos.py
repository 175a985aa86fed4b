"""Clients that come, leave and crowd at random: nothing is lost, nothing is kept."""

import asyncio
import json
import random
import time
from collections import Counter
from urllib.parse import urlsplit

import pytest

from r1jax.engine.types import SamplingParams
from serve.fuzz import post


async def visit(address, rng: random.Random, seen: Counter, lost: list) -> None:
    """Asks once, and leaves at some point of the answer, or stays to its end."""
    count = rng.randint(1, 60)
    stream = rng.random() < 0.6
    body = {
        "prompt": rng.choice("abcdefgh") * rng.choice([1, 20, 100]),
        "max_tokens": count,
        "ignore_eos": True,
        "stream": stream,
        "n": rng.choice([1, 1, 1, 2]),
    }
    leaves = rng.random() < 0.4
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(post("/v1/completions", json.dumps(body).encode()))
        if leaves:
            await asyncio.sleep(rng.random() * 0.1)
            await asyncio.wait_for(reader.read(rng.choice([1, 500])), 0.1)
            seen["left"] += 1
            return
        answer = await asyncio.wait_for(reader.read(), 120)
        whole = answer.startswith(b"HTTP/1.1 200 ")
        if stream:
            ends = answer.count(b'"finish_reason":"length"')
            whole = whole and b"data: [DONE]" in answer and ends == body["n"]
        else:
            whole = whole and answer.count(b'"finish_reason":"length"') == body["n"]
        seen["answered"] += whole
        if not whole:
            lost.append((body, answer[:300]))
    except TimeoutError:
        (seen if leaves else Counter())["left"] += 1
        if not leaves:
            lost.append((body, "nothing came"))
    finally:
        writer.transport.abort()


async def crowd(address, seconds: float, people: int) -> tuple[Counter, list]:
    """Lets so many visit again and again."""
    seen: Counter = Counter()
    lost: list = []
    until = time.monotonic() + seconds

    async def one(seed: int) -> None:
        rng = random.Random(seed)
        while time.monotonic() < until:
            await visit(address, rng, seen, lost)

    await asyncio.gather(*(one(seed) for seed in range(people)))
    return seen, lost


@pytest.mark.parametrize(
    "seconds",
    [
        5,
        pytest.param(300, marks=pytest.mark.slow(minutes=5)),
    ],
)
def test_nothing_is_lost_or_kept_in_a_crowd(serve, real_llm, eventually, seconds):
    engine = real_llm.engine
    with serve(real_llm) as site:
        parts = urlsplit(site.url)
        address = parts.hostname, parts.port
        seen, lost = asyncio.run(crowd(address, seconds, people=12))
        assert not lost
        assert seen["answered"]
        assert seen["left"]
        admission = site.app.state.admission
        eventually(lambda: admission.outstanding == 0)
        eventually(lambda: engine.stats().pages_used == 0)
        stats = engine.stats()
        assert (stats.running, stats.waiting) == (0, 0)
        assert stats.preemptions > 0, "the cache was never short"
        eventually(lambda: not admission._open)
        prompt = real_llm.tokenizer.encode_prompt("a")
        sampling = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
        [wanted] = real_llm.generate([prompt], sampling)
        answer = site.complete(prompt="a", max_tokens=8, ignore_eos=True)
        assert answer.json()["choices"][0]["text"] == wanted.content
