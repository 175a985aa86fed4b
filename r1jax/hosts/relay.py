"""Passes bytes between a local port and an address; run as a program of its own.

When the far side ends the near side is not told: its connection stays open and silent
until this program's standard input ends, which is when its parent does.
"""

import contextlib
import socket
import sys
import threading
import time

_CONNECT_SECONDS = 60


def main(host: str, port: int) -> None:
    """Says which port it listens at, and passes on until standard input ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    threading.Thread(target=_accept, args=(listener, host, port), daemon=True).start()
    sys.stdin.read()


def _accept(listener: socket.socket, host: str, port: int) -> None:
    while True:
        near = listener.accept()[0]
        threading.Thread(target=_join, args=(near, host, port), daemon=True).start()


def _join(near: socket.socket, host: str, port: int) -> None:
    deadline = time.monotonic() + _CONNECT_SECONDS
    while True:
        try:
            far = socket.create_connection((host, port), 5)
            break
        except OSError:
            if time.monotonic() > deadline:
                near.close()
                return
            time.sleep(0.05)
    far.settimeout(None)
    for connection in (near, far):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threading.Thread(target=_pass, args=(far, near), daemon=True).start()
    _pass(near, far)
    with contextlib.suppress(OSError):
        far.shutdown(socket.SHUT_RDWR)


def _pass(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
