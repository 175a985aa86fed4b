"""How the processes of one program meet, before and within `jax.distributed`.

They meet at the coordinator's address first, over sockets of our own: a process that
does not come, comes twice or is of another program is told in a sentence, where JAX's
own service waits in C++ and aborts. Only then JAX is initialised, at a port that
process 0 picks.
"""

import atexit
import contextlib
import json
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax

from r1jax.errors import ConfigError
from r1jax.hosts import relay
from r1jax.hosts.cluster import Cluster
from r1jax.hosts.group import Hosts

JOIN_SECONDS = 300
_HELLO_SECONDS = 5  # for a stranger to say who it is
_RETRY_SECONDS = 0.2
_PROGRAM = "r1jax 1"
# JAX's own watch over its processes; ours is faster, and speaks in a sentence.
_JAX_HEARTBEAT_SECONDS = 120
_JAX_SHUTDOWN_SECONDS = 20


def join(cluster: Cluster, timeout: float = JOIN_SECONDS) -> Hosts:
    """Meets the other processes and makes them one for JAX.

    Must come before anything that makes JAX look for devices. Afterwards
    `jax.devices()` are those of all processes.

    Args:
      cluster: Who they are.
      timeout: Seconds to wait for the others.

    Raises:
      ConfigError: Some process did not come in time, or does not fit.
    """
    if cluster.index == 0:
        connections, port = _gather(cluster, timeout)
    else:
        connections, port = _report(cluster, timeout)
    hosts = Hosts(cluster.index, cluster.processes, connections)
    atexit.register(_end, hosts)  # before JAX's own, which waits for the others
    _initialize(cluster, port, timeout)
    return hosts


def _gather(cluster: Cluster, timeout: float) -> tuple[dict[int, socket.socket], int]:
    """Waits for all others, as process 0; picks the port that JAX is to use."""
    deadline = time.monotonic() + timeout
    found: dict[int, socket.socket] = {}
    with _listen(cluster) as listener:
        while len(found) < cluster.processes - 1:
            listener.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                connection = listener.accept()[0]
            except TimeoutError:
                raise _absent(cluster, found, timeout) from None
            _admit(cluster, connection, found)
        with socket.create_server(("", 0), family=listener.family) as free:
            port = free.getsockname()[1]
    for connection in found.values():
        _write(connection, {"port": port})
    return found, port


def _listen(cluster: Cluster) -> socket.socket:
    """Listens at the coordinator's address, or at its port where it is no own one."""
    host, port = cluster.address
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        try:
            return socket.create_server((host, port), family=family)
        except OSError:
            return socket.create_server(("", port), family=family)
    except OSError as error:
        raise ConfigError(
            f"process 0 cannot wait for the others at {cluster.coordinator}",
            str(error),
            "choose a --coordinator on this host, with a free port",
        ) from None


def _admit(
    cluster: Cluster, connection: socket.socket, found: dict[int, socket.socket]
) -> None:
    """Hears who has connected; who does not fit is told so, strangers are not."""
    connection.settimeout(_HELLO_SECONDS)
    hello = _read(connection)
    index = hello.get("process")
    if hello.get("program") != _PROGRAM or not isinstance(index, int):
        connection.close()
        return
    trouble = ""
    if hello.get("processes") != cluster.processes:
        trouble = (
            f"it counts {hello.get('processes')} processes, process 0 counts "
            f"{cluster.processes}"
        )
    elif not 0 < index < cluster.processes:
        trouble = f"there is no process {index} of {cluster.processes} to wait for"
    elif index in found and not _ended(found[index]):
        trouble = f"another process has joined as process {index} already"
    if trouble:
        _write(connection, {"error": trouble})
        connection.close()
    else:
        found[index] = connection


def _absent(
    cluster: Cluster, found: dict[int, socket.socket], timeout: float
) -> ConfigError:
    missing = sorted(set(range(1, cluster.processes)) - set(found))
    for connection in found.values():
        _write(connection, {"error": f"process {missing[0]} did not come"})
        connection.close()
    shown = ", ".join(map(str, missing[:8])) + (" ..." if len(missing) > 8 else "")
    return ConfigError(
        f"{len(missing)} of {cluster.processes} processes did not come within "
        f"{timeout:.0f} s: {shown}",
        "all run one program and none can begin alone",
        f"start them too, with --coordinator {cluster.coordinator}",
    )


def _report(cluster: Cluster, timeout: float) -> tuple[dict[int, socket.socket], int]:
    """Goes to process 0 and waits until all others have come too."""
    deadline = time.monotonic() + timeout
    hello = {
        "program": _PROGRAM,
        "process": cluster.index,
        "processes": cluster.processes,
    }
    while True:
        try:
            connection = socket.create_connection(cluster.address, _HELLO_SECONDS)
        except OSError as error:
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"process {cluster.index} cannot reach process 0 at "
                    f"{cluster.coordinator}",
                    f"{error}, for {timeout:.0f} s",
                    "start process 0 there, or correct --coordinator",
                ) from None
            time.sleep(_RETRY_SECONDS)
            continue
        _write(connection, hello)
        connection.settimeout(timeout + _HELLO_SECONDS)
        answer = _read(connection)
        if "port" in answer:
            return {0: connection}, answer["port"]
        connection.close()
        if "error" in answer or time.monotonic() > deadline:
            raise ConfigError(
                f"process {cluster.index} was turned away by process 0",
                answer.get("error", f"{cluster.coordinator} does not speak as it does"),
                "start all processes with the same flags but for --process-id",
            )
        time.sleep(_RETRY_SECONDS)


def _initialize(cluster: Cluster, port: int, timeout: float) -> None:
    """Makes the processes one for JAX.

    JAX's client aborts with a stack trace the moment its service is gone, before anyone
    could say what has happened. So it is connected through a relay, which holds its
    line until we have heard and ended ourselves.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would take SIGTERM for itself.
    jax.config.update("jax_enable_preemption_service", False)
    host, address = cluster.address[0], f"127.0.0.1:{port}"
    if cluster.index > 0:
        address = f"127.0.0.1:{_start_relay(host, port)}"
    jax.distributed.initialize(
        address,
        cluster.processes,
        cluster.index,
        local_device_ids=cluster.device,
        cluster_detection_method="deactivate",
        initialization_timeout=int(timeout) + 1,
        heartbeat_timeout_seconds=_JAX_HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=_JAX_SHUTDOWN_SECONDS,
        coordinator_bind_address=f"[::]:{port}" if cluster.index == 0 else None,
    )


def _start_relay(host: str, port: int) -> int:
    """Starts the relay as a process: JAX may hold Python's lock while it connects."""
    command = [sys.executable, "-S", "-E", str(Path(relay.__file__)), host, str(port)]
    started = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,  # it ends when we do
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    assert started.stdout is not None
    return int(started.stdout.readline())


def _end(hosts: Hosts) -> None:
    """Ends a process that fails without waiting for the others, as JAX would."""
    if not hosts.ending:
        hosts.abandon()


def _ended(connection: socket.socket) -> bool:
    """Tells whether the other side has closed a connection on which it says nothing."""
    readable, _, _ = select.select([connection], [], [], 0)
    if not readable:
        return False
    with contextlib.suppress(OSError):
        return not connection.recv(1, socket.MSG_PEEK)
    return True


def _write(connection: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(message).encode() + b"\n")


def _read(connection: socket.socket) -> dict[str, Any]:
    """Reads one line byte by byte: what follows belongs to the channel."""
    line = b""
    try:
        while not line.endswith(b"\n") and len(line) < 1024:
            byte = connection.recv(1)
            if not byte:
                return {}
            line += byte
        message = json.loads(line)
    except (OSError, ValueError):
        return {}
    return message if isinstance(message, dict) else {}
