"""How processes meet: who fits is let in, who does not is told why."""

import contextlib
import socket
import threading

import pytest

from hosts.processes import connected, free_port
from r1jax.errors import ConfigError
from r1jax.hosts import Cluster, rendezvous


@contextlib.contextmanager
def meeting(*clusters, timeout=5.0):
    """Lets processes meet, each on a thread; gives what each got, or its error."""
    results: dict[int, object] = {}

    def meet(place, cluster):
        act = rendezvous._gather if cluster.index == 0 else rendezvous._report
        try:
            results[place] = act(cluster, timeout)
        except ConfigError as error:
            results[place] = error

    threads = [threading.Thread(target=meet, args=pair) for pair in enumerate(clusters)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    yield results
    for result in results.values():
        if isinstance(result, tuple):
            for connection in result[0].values():
                connection.close()


@pytest.fixture
def address():
    return f"127.0.0.1:{free_port()}"


def test_all_meet_and_hear_of_one_port(address):
    with meeting(*(Cluster(address, 3, i) for i in (2, 0, 1))) as results:
        ports = {port for _, port in results.values()}
        assert len(ports) == 1
        assert sorted(results[1][0]) == [1, 2]
        assert list(results[0][0]) == list(results[2][0]) == [0]


def test_process_0_names_those_that_do_not_come(address):
    with meeting(Cluster(address, 4, 0), Cluster(address, 4, 2), timeout=1) as results:
        leader, other = (results[i] for i in (0, 1))
        assert leader.what == "2 of 4 processes did not come within 1 s: 1, 3"
        assert other.why == "process 1 did not come"


def test_a_missing_process_0_is_told(address):
    with meeting(Cluster(address, 2, 1), timeout=0.5) as results:
        assert results[0].what == f"process 1 cannot reach process 0 at {address}"
        assert "refused" in results[0].why


def test_another_count_is_refused(address):
    pair = Cluster(address, 2, 0), Cluster(address, 3, 1)
    with meeting(*pair, timeout=1) as results:
        assert results[1].why == "it counts 3 processes, process 0 counts 2"


def test_the_same_number_twice_is_refused(address):
    twice = Cluster(address, 3, 1)
    with meeting(Cluster(address, 3, 0), twice, twice, timeout=1) as results:
        told = {results[1].why, results[2].why}
        assert "another process has joined as process 1 already" in told


def test_a_number_that_nobody_waits_for_is_refused(address):
    near, far = connected()
    with near, far:
        far.sendall(b'{"program": "r1jax 1", "process": 7, "processes": 3}\n')
        found: dict[int, socket.socket] = {}
        rendezvous._admit(Cluster(address, 3, 0), near, found)
        assert not found
        assert b"there is no process 7 of 3" in far.recv(1000)


def test_a_process_that_left_may_come_again(address):
    found: dict[int, socket.socket] = {}
    cluster = Cluster(address, 3, 0)
    hello = b'{"program": "r1jax 1", "process": 1, "processes": 3}\n'
    mine, theirs = zip(*(connected() for _ in range(2)), strict=True)
    for near, far in zip(mine, theirs, strict=True):
        far.sendall(hello)
        rendezvous._admit(cluster, near, found)
        far.close()
    assert found == {1: mine[1]}
    for near in mine:
        near.close()


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b"\xff" * 2000])
def test_a_stranger_is_not_let_in(address, noise):
    near, far = connected()
    with near, far:
        far.sendall(noise)
        found: dict[int, socket.socket] = {}
        rendezvous._admit(Cluster(address, 2, 0), near, found)
        assert not found


def test_an_address_that_cannot_be_listened_at_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match="process 0 cannot wait"):
            rendezvous._gather(Cluster(address, 2, 0), 1)
