"""One wake for all events of a step, and none of them lost."""

import asyncio
import threading

from r1jax.engine.types import Event
from r1jax.serve.mailbox import Mailbox


class Reader:
    def __init__(self):
        self.seen = []

    def receive(self, index, event):
        self.seen.append((index, event.token))


def test_events_of_one_step_wake_the_loop_once():
    async def read():
        mailbox, reader = Mailbox(), Reader()
        loop = asyncio.get_running_loop()
        wakes = []
        wake = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda f: (wakes.append(f), wake(f))
        puts = [mailbox.address(reader, index) for index in range(8)]
        for step in range(3):
            for put in puts:
                put(Event(1, step, finish="stop" if step == 2 else None))
            assert mailbox.outstanding == 8
            await asyncio.sleep(0)
            assert len(wakes) == step + 1
        assert reader.seen == [(i, step) for step in range(3) for i in range(8)]
        assert mailbox.outstanding == 0

    asyncio.run(read())


def test_no_event_is_lost_between_threads():
    async def read():
        mailbox, reader = Mailbox(), Reader()
        put = mailbox.address(reader, 0)

        def write():
            for token in range(20_000):
                put(Event(1, token))
            put(Event(1, finish="stop"))

        thread = threading.Thread(target=write)
        thread.start()
        while mailbox.outstanding:
            await asyncio.sleep(0.001)
        thread.join()
        assert reader.seen == [(0, token) for token in [*range(20_000), None]]

    asyncio.run(read())


def test_a_loop_that_is_gone_is_no_error():
    async def give():
        return Mailbox().address(Reader(), 0)

    asyncio.run(give())(Event(1, 2))
