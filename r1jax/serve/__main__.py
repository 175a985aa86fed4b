"""Serves a model over HTTP: `python -m r1jax.serve [SOURCE] [--port 8000] ...`."""

import argparse
import asyncio
import dataclasses
import functools
import ipaddress
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

import jax
import uvicorn
from starlette.applications import Starlette

from r1jax import hosts
from r1jax.engine.programs import keep_compiled
from r1jax.errors import ConfigError, R1jaxError
from r1jax.llm import LLM
from r1jax.load import load
from r1jax.serve import batch, log
from r1jax.serve.app import ServeOptions, create_app
from r1jax.serve.flags import parser
from r1jax.serve.generation import Admission
from r1jax.serve.settings import batch_files, options_of
from r1jax.serve.speculation import read_speculation
from r1jax.serve.stream import write_json
from r1jax.serve.tls import tls_options
from r1jax.serve.watchdog import Watchdog
from r1jax.sharding import make_mesh

_LOAD_FLAGS = (
    "dtype",
    "attention_dtype",
    "dense_dtype",
    "experts_dtype",
    "strategy",
    "kernels",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "page_size",
    "num_pages",
    "prefix_caching",
    "memory_utilization",
    "redundant_experts",
    "expert_loads",
    "seed",
)
_IDLE_SECONDS = 30  # an idle connection is kept this long
_SPARE_SECONDS = 2  # after requests were told to end, before connections are cut
_GLANCE_SECONDS = 0.05
_FAILED = 1  # the exit code of an engine that cannot go on: start it again
_BAD_INPUT = 2  # of what the user can put right
_SOME_REFUSED = 3  # of a batch that is done, with lines that could not be answered


def main(arguments: Sequence[str] | None = None) -> int:
    """Loads a model and serves it until told to stop; gives the exit code."""
    try:
        args = parser().parse_args(arguments)
        log.set_up(args.log_level, args.log_format)
        cluster = hosts.detect(args.coordinator, args.num_processes, args.process_id)
        if cluster is None:
            return _lead(args, None)
        with hosts.join(cluster, args.initialization_timeout) as others:
            try:
                run = _lead if others.leads else _follow
                code = run(args, others)
            except R1jaxError as error:
                sys.stderr.write(f"{error}\n")
                code = _BAD_INPUT
            if code:
                others.abandon(code)
            return code
    except R1jaxError as error:
        sys.stderr.write(f"{error}\n")
        return _BAD_INPUT
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _lead(args: argparse.Namespace, others: hosts.Hosts | None) -> int:
    """Serves, or answers a batch, and plans the steps of all processes."""
    if args.batch or args.output:
        return _answer_batch(args, others)
    tls, options = tls_options(args), options_of(args)
    with _bind(args.host, args.port) as listener:
        llm = _load(args, others)
        _ = llm.tokenizer  # what has none cannot be served
        app = create_app(llm, options)
        admission: Admission = app.state.admission
        watchdog = None
        if args.step_timeout:
            owed = functools.partial(getattr, admission, "outstanding")
            watchdog = Watchdog(llm.engine, owed, args.step_timeout)
        try:
            return _serve(llm, args, app, options, tls, listener, others)
        finally:
            if watchdog and watchdog.barked:
                watchdog.leave()  # a stuck engine cannot be closed
            llm.close()
            if watchdog:
                watchdog.stop()


def _answer_batch(args: argparse.Namespace, others: hosts.Hosts | None) -> int:
    """Answers a file of requests."""
    source, output = batch_files(args)
    batch.count_lines(source)  # what is wrong is told before a model is loaded
    batch.mend(output)
    names = options_of(args).names
    llm = _load(args, others)
    _ = llm.tokenizer  # as above
    try:
        tally = batch.run_batch(llm, names, source, output)
    finally:
        llm.close()
    sys.stderr.write(
        f"r1jax: {tally.answered} answered, {tally.refused} refused, "
        f"{tally.skipped} answered before\n"
    )
    if tally.failure is not None:
        sys.stderr.write(f"r1jax: the batch breaks off: {tally.failure}\n")
        return _FAILED
    return _SOME_REFUSED if tally.refused else 0


def _follow(args: argparse.Namespace, others: hosts.Hosts) -> int:
    """Runs the steps of process 0 until it stops; a signal makes all stop."""
    llm = _load(args, others)

    def stop(number: int, frame: FrameType | None) -> None:
        # Not here: the handler may have interrupted a thread that is sending.
        threading.Thread(target=others.ask_to_stop).start()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    llm.follow()
    llm.close()
    return 0


def _load(args: argparse.Namespace, others: hosts.Hosts | None) -> LLM:
    given = {name: getattr(args, name) for name in _LOAD_FLAGS}
    if args.compilation_cache and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        keep_compiled(args.compilation_cache)
    data, tensor = args.data_parallel_size, args.tensor_parallel_size
    if data or tensor:
        alone = jax.device_count() // (data or 1) if others else 1
        given["mesh"] = make_mesh(data or 1, tensor or max(alone, 1))
    if args.speculative_config is not None:
        given |= read_speculation(args.speculative_config)
    given["hosts"] = others
    return load(args.source, **{k: v for k, v in given.items() if v is not None})


def _serve(
    llm: LLM,
    args: argparse.Namespace,
    app: Starlette,
    options: ServeOptions,
    tls: dict[str, Any],
    listener: socket.socket,
    others: hosts.Hosts | None,
) -> int:
    config = uvicorn.Config(
        app,
        log_config=None,  # uvicorn's own would close handlers of other libraries
        log_level=args.uvicorn_log_level,
        server_header=False,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=_SPARE_SECONDS,
        ws="none",
        **tls,
    )
    greeting = describe(llm, options) + invite(
        options, listener.getsockname(), "https" if tls else "http"
    )
    server = _Server(config, app.state.admission, args.shutdown_timeout, greeting)
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn hands signals back when it is done; that is not to kill us.
        signal.signal(number, server.stop)
    if others:
        others.when_asked_to_stop(server.stop)
    server.run([listener])
    failure = app.state.admission.failure
    if failure is None:
        return 0
    sys.stderr.write(f"r1jax: the server ends: {failure}\n")
    return _FAILED


class _Server(uvicorn.Server):
    """A server that lets requests finish for a while before it stops."""

    def __init__(
        self,
        config: uvicorn.Config,
        admission: Admission,
        patience: int,
        greeting: str,
    ) -> None:
        """Takes the seconds that running requests are given, and what to say first."""
        super().__init__(config)
        self._admission = admission
        self._patience = patience
        self._greeting = greeting

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen, and says so."""
        await super().startup(sockets)
        sys.stdout.write(self._greeting)
        sys.stdout.flush()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Lets what runs finish, and tells what outlasts the patience to end.

        Meanwhile newcomers are still told that the server stops.
        """
        self._admission.draining = True
        until = time.monotonic() + self._patience
        while self._admission.busy and time.monotonic() < until and not self.force_exit:
            await asyncio.sleep(_GLANCE_SECONDS)
        self._admission.abort()
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Tells ten times a second whether to stop: an engine that failed never runs.

        Its requests have been told, and have a moment to tell their clients.
        """
        if self._admission.failure is not None:
            self._patience = _SPARE_SECONDS
            return True
        return await super().on_tick(counter)

    def stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Takes a signal while uvicorn does not."""
        self.should_exit = True


def describe(llm: LLM, options: ServeOptions) -> str:
    """Says what was loaded: name, parameters, dtype, device, context, cache."""
    pages, page_size = llm.engine.stats().pages_total, llm.engine.options.page_size
    rows = {
        "model": ", ".join(options.names),
        "parameters": f"{llm.parameter_count:,}",
        "dtype": _dtype(llm),
        "device": _devices(),
        "context": f"{llm.engine.max_model_len:,} tokens",
        "cache": f"{pages * page_size:,} tokens",
    }
    return "".join(f"{name:<12}{value}\n" for name, value in rows.items())


def _devices() -> str:
    """Names the devices; how many there are only where processes share them."""
    kind, processes = jax.devices()[0].device_kind, jax.process_count()
    if processes == 1:
        return kind
    return f"{kind}, {jax.device_count()} in {processes} processes"


def _dtype(llm: LLM) -> str:
    """Names the dtype, and what is of few bits instead."""
    few = dataclasses.asdict(llm.scheme) if llm.scheme else {}
    names = [f"{part} {form}" for part, form in few.items() if form]
    return ", ".join([llm.dtype, *names])


def invite(options: ServeOptions, address: Sequence[Any], scheme: str) -> str:
    """Says where the server listens, with a command to try."""
    host, port = str(address[0]), address[1]
    near = "127.0.0.1" if ipaddress.ip_address(host).is_unspecified else host
    bracket = "[{}]" if ":" in near else "{}"
    url = f"{scheme}://{bracket.format(near)}:{port}/v1"
    key = ' -H "Authorization: Bearer $API_KEY"' if options.api_keys else ""
    message = {"role": "user", "content": "What is 1+1?"}
    body = write_json({"model": options.names[0], "messages": [message]})
    body = body.replace("'", r"'\''")
    return (
        f"{'listening':<12}{url}\n\ntry:  curl {url}/chat/completions{key} "
        f"-H 'Content-Type: application/json' -d '{body}'\n"
    )


def _bind(host: str, port: int) -> socket.socket:
    """Takes the address before the model is loaded, as it may be taken already.

    Raises:
      ConfigError: The address cannot be had.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(found[0], socket.SOCK_STREAM)
    except (OSError, OverflowError) as error:
        raise _cannot_listen(host, port, error) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(found[4])
    except (OSError, OverflowError) as error:
        listener.close()
        raise _cannot_listen(host, port, error) from None
    return listener


def _cannot_listen(host: str, port: int, error: Exception) -> ConfigError:
    return ConfigError(
        f"cannot listen on {host}, port {port}",
        str(error),
        "choose another --host or --port",
    )


if __name__ == "__main__":
    sys.exit(main())
