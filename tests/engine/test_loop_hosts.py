"""What an engine promises when a process of its program is lost."""

import threading

import pytest

from engine.collect import submit
from r1jax.errors import RequestError


class FakeHosts:
    """Process 0's view of another, which is lost when the test says so."""

    leads, loss = True, None

    def __init__(self):
        self.sent = []

    def send(self, data):
        self.sent.append(data)

    def ready(self):
        pass

    def watch(self, on_loss):
        self.on_loss = on_loss

    def wait_for_loss(self, seconds):
        return self.loss

    def lose(self, reason):
        self.loss = reason
        self.on_loss(reason)


def engine_of_many(make_engine, **how):
    hosts = FakeHosts()
    return hosts, make_engine(hosts=hosts, **how)


def test_a_lost_host_ends_requests_while_a_step_hangs(make_engine):
    hosts, (engine, permits) = engine_of_many(make_engine, paused=True)
    answers = [submit(engine, [i])[1] for i in range(4)]
    assert permits.held.wait(10)
    hosts.lose("process 1 has ended")
    hosts.lose("process 2 has ended")
    for answer in answers:
        [event] = answer.wait().events
        assert (event.finish, event.error) == ("error", "process 1 has ended")
    with pytest.raises(RequestError, match="process 1 has ended"):
        submit(engine, [1])
    engine.close()  # does not wait for the step


def test_closing_ends_though_a_step_hangs_on_a_host_lost_meanwhile(make_engine):
    hosts, (engine, permits) = engine_of_many(make_engine, paused=True)
    submit(engine, [1])
    assert permits.held.wait(10)
    closing = threading.Thread(target=engine.close)
    closing.start()
    closing.join(0.1)
    assert closing.is_alive()
    hosts.lose("process 1 has ended")
    closing.join(10)
    assert not closing.is_alive()


def test_a_lost_host_is_noticed_while_nothing_runs(make_engine):
    hosts, engine = engine_of_many(make_engine)
    hosts.lose("process 1 has ended")
    assert engine.failure == "process 1 has ended"
    engine.wait_until_closed()


def test_a_step_that_fails_with_a_host_is_blamed_on_it(make_engine):
    broken = RuntimeError("Gloo all-reduce failed")
    hosts, (engine, permits) = engine_of_many(make_engine, paused=True, broken=broken)
    hosts.loss = "process 1 has ended"
    answer = submit(engine, [1])[1]
    permits.release()
    assert answer.wait().events[0].error == "process 1 has ended"


def test_the_engines_of_other_processes_take_no_requests(make_engine):
    class Follower(FakeHosts):
        leads, index = False, 1

        def receive(self):
            return None

    engine = make_engine(hosts=Follower())
    with pytest.raises(RequestError, match="ask process 0"):
        submit(engine, [1])
    engine.wait_until_closed()
