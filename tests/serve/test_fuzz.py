"""After thousands of malformed requests the server answers, and holds nothing."""

import asyncio
import contextlib
import itertools
import re
from collections import Counter
from urllib.parse import urlsplit

import pytest

from serve.fuzz import Attack, attacks

PATIENCE = 60.0  # seconds for an answer; a server that is stalled gives none
AT_ONCE = 16


async def send(address: tuple[str, int], attack: Attack) -> int | None:
    """Sends one; gives the status of its answer, or None if there was none."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        with contextlib.suppress(ConnectionError):
            for piece in attack.pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(attack.pause)
            if attack.end == "hang up":
                return None
            if attack.end == "half":
                writer.write_eof()
            answer = await asyncio.wait_for(reader.read(), PATIENCE)
            found = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
            return int(found[1]) if found else None
        return None
    finally:
        writer.transport.abort()


async def send_all(address, several) -> Counter:
    """Sends some at a time; counts (kind, status)."""
    seen, turns = Counter(), asyncio.Semaphore(AT_ONCE)

    async def one(attack: Attack) -> None:
        async with turns:
            seen[attack.kind, await send(address, attack)] += 1

    async with asyncio.TaskGroup() as group:
        for attack in several:
            async with turns:
                group.create_task(one(attack))
    return seen


@pytest.mark.parametrize(
    "count", [320, pytest.param(10_000, marks=pytest.mark.slow(minutes=2))]
)
def test_malformed_requests_break_nothing(serve, real_llm, eventually, count):
    with serve(real_llm) as site:
        parts = urlsplit(site.url)
        address = parts.hostname, parts.port
        several = itertools.islice(attacks(seed=count), count)
        seen = asyncio.run(send_all(address, several))
        assert seen.total() == count
        failures = {
            key: times
            for key, times in seen.items()
            if key[1] is not None and key[1] >= 500 and key[1] != 503
        }
        assert not failures
        kinds = {kind for kind, _ in seen}
        answered = {kind for kind, status in seen if status is not None}
        assert kinds - answered == {"leaving", "unfinished"}, (
            "what is never answered tests little"
        )
        eventually(lambda: real_llm.engine.stats().pages_used == 0)
        eventually(lambda: site.app.state.admission.outstanding == 0)
        good = site.complete(max_tokens=3)
        assert good.status_code == 200
        assert good.json()["usage"]["completion_tokens"] == 3
    stats = real_llm.engine.stats()
    assert (stats.running, stats.waiting, stats.pages_used) == (0, 0, 0)
