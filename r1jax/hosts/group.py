"""The processes of one program once they have met: messages, agreement, and losses."""

import contextlib
import functools
import json
import os
import queue
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from r1jax.errors import ConfigError
from r1jax.hosts.channel import BEAT_SECONDS, Channel, Kind

LOST = 1  # the exit code of a process that others have left alone
OnLoss = Callable[[str], None]


class Hosts:
    """The other processes, as this one sees them.

    Process 0 is connected to each other one, and they to it alone. When one is lost
    process 0 hears of it, and tells the rest; each of them says so in one line and ends
    with the code `LOST`, for whatever supervises them to start all of them again.
    Process 0 does the same, unless somebody watches who has more to do first.

    Attributes:
      index: This process's number.
      count: How many there are.
      loss: Whom process 0 has lost, and how; None while all are there.
      ending: Whether all end in peace.
    """

    def __init__(
        self, index: int, count: int, connections: Mapping[int, socket.socket]
    ) -> None:
        """Takes over a connection to each process that this one talks to."""
        self.index, self.count = index, count
        self.loss: str | None = None
        self._data: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.ending = False
        self._lost = threading.Event()
        self._lock = threading.Lock()
        self._not_ready = set(connections) if index == 0 else set()
        self._ready = threading.Condition()
        self._on_loss: OnLoss = self.leave
        self._on_stop: Callable[[], None] = lambda: None
        self._channels = {
            other: Channel(
                connection,
                functools.partial(self._take, other),
                functools.partial(self._lose, other),
            )
            for other, connection in connections.items()
        }
        threading.Thread(target=self._beat, name="beats", daemon=True).start()

    @property
    def leads(self) -> bool:
        """Whether this is process 0."""
        return self.index == 0

    def send(self, data: bytes) -> None:
        """Sends bytes from process 0 to all others, in order."""
        assert self.leads
        self._tell(Kind.DATA, data)

    def receive(self) -> bytes | None:
        """Waits for process 0's next bytes; None when it has stopped in peace."""
        return self._data.get()

    def agree(self, settings: Mapping[str, Any], chosen: Mapping[str, Any]) -> Any:
        """Holds this process's settings against those of process 0.

        Args:
          settings: What must be the same everywhere; must be writable as JSON.
          chosen: What process 0 decides for all.

        Returns:
          What process 0 has chosen.

        Raises:
          ConfigError: A setting differs from process 0's.
        """
        if self.leads:
            self.send(json.dumps([settings, chosen]).encode())
            return chosen
        data = self.receive()
        if data is None:
            self.leave("process 0 has stopped")
        theirs, chosen = json.loads(data)
        for name, mine in json.loads(json.dumps(settings)).items():
            if theirs[name] != mine:
                raise ConfigError(
                    f"{name} is {mine!r} in process {self.index}",
                    f"it is {theirs[name]!r} in process 0, and all run one program",
                    "start all processes with the same model and the same flags",
                )
        return chosen

    def ready(self) -> None:
        """Says that this process can run steps; process 0 waits until all can."""
        if not self.leads:
            self._tell(Kind.READY)
            return
        with self._ready:
            self._ready.wait_for(lambda: not self._not_ready)

    def watch(self, on_loss: OnLoss) -> None:
        """Has process 0 do something else than end when it loses another.

        Args:
          on_loss: Called on a thread of its own with whom, and how.
        """
        if self.leads:
            with self._lock:
                self._on_loss = on_loss

    def when_asked_to_stop(self, on_stop: Callable[[], None]) -> None:
        """Has process 0 hear it when another was asked to stop."""
        self._on_stop = on_stop

    def wait_for_loss(self, seconds: float) -> str | None:
        """Returns the loss that explains a failed step, which may be noticed later."""
        self._lost.wait(seconds)
        return self.loss

    def ask_to_stop(self) -> None:
        """Asks process 0 to stop everything, as a signal to it would."""
        self._tell(Kind.STOP)

    def close(self) -> None:
        """Ends in peace: process 0 tells the others, which wait for that."""
        if self.leads:
            self.ending = True
            self._tell(Kind.END)
        while not self.ending:
            self.receive()

    def __enter__(self) -> "Hosts":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.close()

    def abandon(self, code: int = LOST) -> NoReturn:
        """Ends this process at once, and with it the others."""
        try:
            # Another thread may wait for one that is writing, and that for a reader.
            if threading.current_thread() is threading.main_thread():
                sys.stdout.flush()
                sys.stderr.flush()
        finally:
            os._exit(code)

    def leave(self, reason: str) -> NoReturn:
        """Ends this process at once: a collective that waits for the lost cannot."""
        name = f"r1jax: process {self.index} of {self.count}"
        with contextlib.suppress(OSError):
            os.write(2, f"{name} ends: {reason}\n".encode())
        self.abandon()

    def _tell(self, kind: Kind, payload: bytes = b"") -> None:
        for channel in list(self._channels.values()):
            channel.send(kind, payload)

    def _beat(self) -> None:
        pause = threading.Event()
        while not pause.wait(BEAT_SECONDS):
            self._tell(Kind.BEAT)

    def _take(self, other: int, kind: Kind, payload: bytes) -> None:
        """Takes a frame, on the channel's thread."""
        if kind == Kind.DATA:
            self._data.put(payload)
        elif kind == Kind.READY:
            with self._ready:
                self._not_ready.discard(other)
                self._ready.notify_all()
        elif kind == Kind.STOP:
            self._on_stop()
        elif payload:
            self.leave(payload.decode())
        else:
            self.ending = True
            self._data.put(None)

    def _lose(self, other: int, fate: str) -> None:
        """Notes that a process is gone, on its channel's thread; the first one counts.

        The others are told why, or they would blame process 0, which ends too.
        """
        with self._lock:
            if self.ending or self.loss is not None:
                return
            self.loss = f"process {other} {fate}"
            on_loss = self._on_loss
        if self.leads:
            self._tell(Kind.END, self.loss.encode())
        self._lost.set()
        on_loss(self.loss)
