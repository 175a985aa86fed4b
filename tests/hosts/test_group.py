"""What processes tell each other once they have met, over real sockets."""

import contextlib
import queue

import pytest

from hosts.processes import connected
from r1jax.errors import ConfigError
from r1jax.hosts import Hosts, channel


@pytest.fixture
def group(monkeypatch):
    """Makes so many processes' hosts in this one."""
    with contextlib.ExitStack() as sockets:
        made: list[Hosts] = []

        def make(count: int) -> list[Hosts]:
            pairs = [connected() for _ in range(count - 1)]
            for pair in pairs:
                for end in pair:
                    sockets.enter_context(end)
            near = {i + 1: pair[0] for i, pair in enumerate(pairs)}
            made.append(Hosts(0, count, near))
            for i, pair in enumerate(pairs):
                made.append(Hosts(i + 1, count, {0: pair[1]}))
            return made

        yield make
        for host in made:
            host.ending = True
            for each in host._channels.values():
                each.close()


@pytest.fixture
def left(monkeypatch):
    """Gathers what processes say when they leave, instead of ending this one."""
    said: queue.SimpleQueue = queue.SimpleQueue()
    monkeypatch.setattr(
        Hosts, "leave", lambda host, reason: said.put((host.index, reason))
    )
    return said


def test_what_process_0_sends_comes_in_order(group, left):
    first, *others = group(3)
    for data in (b"", b"a" * 10**6, b"b"):
        first.send(data)
    for other in others:
        assert [other.receive() for _ in range(3)] == [b"", b"a" * 10**6, b"b"]
    first.close()
    assert [other.receive() for other in others] == [None, None]
    assert left.empty()


def test_process_0_waits_until_all_are_ready(group, left):
    first, *others = group(3)
    others[0].ready()
    with first._ready:
        assert first._ready.wait_for(lambda: first._not_ready == {2}, 5)
    others[1].ready()
    first.ready()


def test_process_0_decides_and_the_others_must_agree(group, left):
    first, second, third = group(3)
    assert first.agree({"dtype": "float32"}, {"pages": 7}) == {"pages": 7}
    assert second.agree({"dtype": "float32"}, {"pages": 9}) == {"pages": 7}
    with pytest.raises(ConfigError, match="dtype is 'bfloat16' in process 2"):
        third.agree({"dtype": "bfloat16"}, {"pages": 9})


def test_a_lost_process_is_told_to_all(group, left):
    first, second, _ = group(3)
    lost: queue.SimpleQueue = queue.SimpleQueue()
    first.watch(lost.put)
    second._channels[0].close()
    assert lost.get(timeout=5) == first.loss == "process 1 has ended"
    assert first.wait_for_loss(0) == first.loss
    said = {left.get(timeout=5) for _ in range(2)}
    assert (2, "process 1 has ended") in said


def test_without_a_watcher_process_0_leaves(group, left):
    group(2)[1]._channels[0].close()
    said = {left.get(timeout=5) for _ in range(2)}
    assert (0, "process 1 has ended") in said


def test_silence_is_death_though_the_connection_stands(group, left, monkeypatch):
    monkeypatch.setattr(channel, "SILENCE_SECONDS", 0.2)
    group(2)
    said = {left.get(timeout=5)[1] for _ in range(2)}
    assert said <= {f"process {i} has not been heard of for 0 s" for i in (0, 1)}


def test_beats_keep_a_silent_connection(group, left, monkeypatch):
    monkeypatch.setattr(channel, "SILENCE_SECONDS", 0.5)
    monkeypatch.setattr("r1jax.hosts.group.BEAT_SECONDS", 0.05)
    first, second = group(2)
    assert first.wait_for_loss(1.5) is second.loss is None


def test_a_stranger_s_bytes_are_not_understood():
    near, far = connected()
    lost: queue.SimpleQueue = queue.SimpleQueue()
    with near, far:
        channel.Channel(near, lambda *_: None, lost.put)
        far.sendall(b"GET / HTTP/1.1\r\n" + b"\0" * 2**16)
        far.close()
        assert lost.get(timeout=5) in ("sent what cannot be understood", "has ended")


def test_any_process_may_ask_to_stop(group, left):
    first, second = group(2)
    asked: queue.SimpleQueue = queue.SimpleQueue()
    first.when_asked_to_stop(lambda: asked.put(True))
    second.ask_to_stop()
    assert asked.get(timeout=5)


def test_a_follower_ends_in_peace_with_process_0(group, left):
    first, second = group(2)
    first.close()
    second.close()
    first._channels[1].close()
    second._channels[0].close()
    assert left.empty()
