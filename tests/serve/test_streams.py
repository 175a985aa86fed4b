"""Many streams at once on a real model: each is what it would be alone."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time

import httpx
import pytest

from r1jax.errors import CheckpointError
from r1jax.locate import SMOLLM2, locate

TOKENS = 10
TOPICS = ("rain", "iron", "Paris", "bread", "the moon", "music", "whales", "glass")
LIMITS = ["--max-model-len", "256", "--max-num-seqs", "32", "--page-size", "32"]
PATIENCE = 1200  # seconds; with nothing kept its programs compile for minutes


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A server of the small real model, of which thirty-two streams run at a time.

    It is a process of its own: flags that let tests' toys compile fast would make this
    model compile several times as long.
    """
    try:
        locate(SMOLLM2)
    except CheckpointError as error:
        pytest.skip(str(error))
    command = [sys.executable, "-m", "r1jax.serve", "smollm2", "--port", "0", *LIMITS]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    log = tmp_path_factory.mktemp("streams") / "log"
    with (
        log.open("w") as said,
        subprocess.Popen(
            command,
            stdout=said,
            stderr=said,
            env={**environment, "PYTHONUNBUFFERED": "1"},
        ) as server,
    ):
        try:
            yield _ready(server, log)
        finally:
            server.terminate()
    assert server.returncode == 0


def _ready(server, log) -> str:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and server.poll() is None:
        found = re.search(r"^listening +(http\S+)", log.read_text(), re.MULTILINE)
        if found and httpx.get(f"{found[1].removesuffix('/v1')}/health").is_success:
            return found[1].removesuffix("/v1")
        time.sleep(0.5)
    pytest.fail(log.read_text())


def prompts(count: int) -> list[str]:
    return [f"Fact {i} about {TOPICS[i % len(TOPICS)]}:" for i in range(count)]


def asked(prompt: str, **more: object) -> dict[str, object]:
    return {"prompt": prompt, "max_tokens": TOKENS, "temperature": 0, **more}


async def read(client: httpx.AsyncClient, prompt: str) -> str:
    """Streams one answer, and joins it."""
    answer = await client.post("/v1/completions", json=asked(prompt, stream=True))
    events = [
        json.loads(line[6:])
        for line in answer.text.splitlines()
        if line.startswith("data: {")
    ]
    return "".join(event["choices"][0]["text"] for event in events)


@pytest.mark.slow(minutes=8)
@pytest.mark.parametrize("count", [32, 256])
def test_each_of_many_streams_equals_its_solo_text(url, count):
    with httpx.Client(base_url=url, timeout=60) as client:
        answers = [
            client.post("/v1/completions", json=asked(prompt)).json()
            for prompt in prompts(count)
        ]
    alone = [answer["choices"][0]["text"] for answer in answers]

    async def all_at_once() -> list[str]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=url, timeout=600, limits=limits
        ) as client:
            return await asyncio.gather(*(read(client, p) for p in prompts(count)))

    together = asyncio.run(all_at_once())
    assert together == alone
    assert len(set(together)) > count // 2
    told = httpx.get(f"{url}/metrics").text
    [used] = re.findall(r"^vllm:kv_cache_usage_perc\S* (\S+)$", told, re.MULTILINE)
    assert float(used) == 0
