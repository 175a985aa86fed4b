"""A server is asked as the protocol says, and again when it is busy."""

import pytest

from r1jax import remote as remotes
from r1jax.errors import ConfigError
from r1jax.remote import Answer, AskError, Remote, Sampling


@pytest.fixture
def waits(monkeypatch):
    """Keeps the seconds that would have been slept."""
    kept: list[float] = []
    monkeypatch.setattr(remotes.time, "sleep", kept.append)
    return kept


@pytest.fixture
def remote(sums):
    remote = Remote(sums.url)
    yield remote
    remote.close()


def test_the_defaults_are_the_papers_and_no_system_prompt_is_sent(sums, remote):
    answer = remote.ask("1+2?", Sampling(), 4)
    assert answer == Answer("\\boxed{3}", "hm", 7, "stop")
    [body] = sums.bodies
    assert body == {
        "model": "adder",
        "messages": [{"role": "user", "content": "1+2?"}],
        "temperature": 0.6,
        "top_p": 0.95,
        "max_tokens": 32768,
        "seed": 4,
    }


def test_a_busy_server_is_asked_again_when_it_says(sums, remote, waits):
    sums.refusals = [(503, {"Retry-After": "7"}), (429, {}), (502, {})]
    assert remote.ask("1+2?", Sampling(), 4).content == "\\boxed{3}"
    assert waits == [7, 2, 4]
    assert sums.tries == 4


def test_patience_ends(sums, remote, waits):
    sums.refusals = [(503, {"Retry-After": "0"})] * 20
    with pytest.raises(AskError, match="status 503"):
        remote.ask("1+2?", Sampling(), 4)
    assert sums.tries == 8


def test_what_the_server_refuses_is_not_asked_twice(sums, remote):
    sums.refusals = [(400, {})]
    with pytest.raises(AskError, match="status 400"):
        remote.ask("1+2?", Sampling(), 4)
    assert sums.tries == 1


def test_errors_say_what_to_do(sums, remote):
    sums.refusals = [(401, {}), (200, {})]
    with pytest.raises(AskError, match="status 401") as refused:
        remote.ask("1+2?", Sampling(), 4)
    assert refused.value.fix == "give the key that the server wants"
    with pytest.raises(AskError, match="no chat completion") as other:
        remote.ask("1+2?", Sampling(), 4)
    sums.nonsense = b'{"choices": [{"message": "3"}]}'
    with pytest.raises(AskError, match="no chat completion"):
        remote.ask("1+2?", Sampling(), 4)
    sums.nonsense = b"<html>"
    with pytest.raises(AskError, match="no JSON") as wrong:
        remote.ask("1+2?", Sampling(), 4)
    for error in (refused, other, wrong):
        assert error.value.why
        assert error.value.fix


def test_a_wait_may_be_a_date_or_nonsense():
    assert remotes._pause(2, "Thu, 01 Jan 1970 00:00:00 GMT") == 0
    assert remotes._pause(2, "soon") == 4
    assert remotes._pause(20, None) == 60


def test_nobody_there_and_no_address_are_told():
    with pytest.raises(AskError, match="cannot be reached"):
        Remote("http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="no address"):
        Remote("127.0.0.1:8000")
