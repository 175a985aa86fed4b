"""A watched connection between process 0 and another: frames, beats, and its end.

A frame is a kind, a length and that many bytes. Both sides send a beat every few
seconds, so a host that has stopped, or that the network has lost, is told from one that
has nothing to say.
"""

import contextlib
import enum
import socket
import struct
import threading
from collections.abc import Callable

BEAT_SECONDS = 2.0
SILENCE_SECONDS = 20.0  # after so long without a frame the other side counts as dead
_HEADER = struct.Struct("!BI")


class Kind(enum.IntEnum):
    """What a frame is."""

    BEAT = 0  # nothing to say
    DATA = 1  # from process 0: bytes that mean something to the engine
    READY = 2  # to process 0: everything is compiled
    STOP = 3  # to process 0: somebody asked this process to stop
    END = 4  # from process 0: it stops, in peace, or for the reason given


class Channel:
    """One connection; a thread of its own reads it."""

    def __init__(
        self,
        connection: socket.socket,
        on_frame: Callable[[Kind, bytes], None],
        on_lost: Callable[[str], None],
    ) -> None:
        """Starts to listen.

        Args:
          connection: Taken over.
          on_frame: Called on the reading thread with every frame but beats.
          on_lost: Called there, once, with what became of the other side.
        """
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(SILENCE_SECONDS)
        self._connection = connection
        self._on_frame, self._on_lost = on_frame, on_lost
        self._sending = threading.Lock()
        threading.Thread(target=self._read, name="channel", daemon=True).start()

    def send(self, kind: Kind, payload: bytes = b"") -> None:
        """Sends a frame; a connection that is lost is the reading thread's affair."""
        frame = _HEADER.pack(kind, len(payload)) + payload
        with self._sending, contextlib.suppress(OSError):
            self._connection.sendall(frame)

    def close(self) -> None:
        """Ends the connection; the other side sees it."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def _read(self) -> None:
        try:
            with self._connection.makefile("rb") as stream:
                while header := stream.read(_HEADER.size):
                    number, length = _HEADER.unpack(header)
                    payload = stream.read(length)
                    if len(payload) < length:
                        break
                    if number != Kind.BEAT:
                        self._on_frame(Kind(number), payload)
            fate = "has ended"
        except TimeoutError:
            fate = f"has not been heard of for {SILENCE_SECONDS:.0f} s"
        except OSError:
            fate = "has ended"
        except (struct.error, ValueError):
            fate = "sent what cannot be understood"
        self._on_lost(fate)
