"""Processes that run the steps of another: in its order, or an end that is told."""

import queue

import numpy as np
import pytest

from r1jax.cache import Geometry
from r1jax.engine.follow import follow
from r1jax.engine.runner import Message


def message(number: int, counts: bool = False, runs: bool = True) -> Message:
    geometry = Geometry(2, 1, 8)
    floats = np.arange(6 * geometry.rows, dtype=np.float32).reshape(6, -1) / 7
    ints = np.arange(-5, number, dtype=np.int32)
    masks = np.arange(number * 4, dtype=np.uint32).reshape(-1, 4) + np.uint32(2**31)
    biases = np.zeros((0, 5), np.int32) if counts else ints[:10].reshape(2, 5)
    return Message(geometry, counts, runs, not counts, ints, floats, masks, biases)


@pytest.mark.parametrize(
    ("counts", "runs"), [(True, True), (False, True), (True, False)]
)
def test_a_message_comes_out_as_it_went_in(counts, runs):
    sent = message(100, counts, runs)
    read = Message.from_bytes(sent.to_bytes())
    for name, value in vars(sent).items():
        found = getattr(read, name)
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(found, value)
            assert found.dtype == value.dtype
        else:
            assert found == value
            assert type(found) is type(value)


class LeftError(Exception):
    """Instead of the end of the process."""


class FakeHosts:
    def __init__(self, *messages):
        self.data = queue.SimpleQueue()
        for each in messages:
            self.data.put(each and each.to_bytes())

    def receive(self):
        return self.data.get()

    def wait_for_loss(self, seconds):
        return None

    def leave(self, reason):
        raise LeftError(reason)


class FakeToken:
    def __init__(self, device, number):
        self.device, self.number = device, number

    def block_until_ready(self):
        if self.number == self.device.breaks:
            raise RuntimeError("out of memory\nand a long trace")
        self.device.finished.append(self.number)


class FakeRunner:
    breaks = None

    def __init__(self):
        self.started, self.finished = [], []
        self.steps = 0

    def run(self, each):
        self.started.append(each.ints.size)
        if not each.runs:
            return {}
        self.steps += 1
        assert self.steps - len(self.finished) <= 2
        return {"token": FakeToken(self, each.ints.size)}


def test_steps_run_in_order_one_ahead_of_the_other():
    runner = FakeRunner()
    follow(runner, FakeHosts(message(5), message(6), message(7), None))
    assert runner.started == [10, 11, 12]
    assert runner.finished == [10, 11]


def test_tokens_that_are_only_counted_are_not_waited_for():
    runner, counted = FakeRunner(), message(9, counts=True, runs=False)
    follow(runner, FakeHosts(counted, message(5), counted, message(6), None))
    assert runner.started == [14, 10, 14, 11]
    assert runner.finished == [10]


def test_a_step_that_fails_is_told_in_a_line():
    runner = FakeRunner()
    runner.breaks = 10
    with pytest.raises(LeftError) as left:
        follow(runner, FakeHosts(message(5), message(6), message(7), None))
    assert str(left.value) == "a step failed: out of memory"
    assert runner.started == [10, 11]
