"""Ctrl-C waits for a step once, and not twice."""

import signal

import pytest

from r1jax.train.interrupts import interrupts


def test_the_first_one_is_told_and_the_second_does_not_wait():
    before = signal.getsignal(signal.SIGINT)
    with interrupts() as stopped:
        assert not stopped()
        signal.raise_signal(signal.SIGINT)
        assert stopped()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
