"""Serves a model over HTTP: `python -m r1jax.serve [SOURCE] [--port 8000] ...`."""

import argparse
import asyncio
import dataclasses
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import jax
import uvicorn

from r1jax.errors import ConfigError, R1jaxError
from r1jax.llm import LLM
from r1jax.load import load
from r1jax.quant import PARTS
from r1jax.serve.app import ServeOptions, create_app
from r1jax.serve.generation import Admission
from r1jax.serve.stream import write_json
from r1jax.sharding import make_mesh

_LOAD_FLAGS = (
    "dtype",
    "attention_dtype",
    "dense_dtype",
    "experts_dtype",
    "kernels",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "page_size",
    "num_pages",
    "memory_utilization",
    "seed",
)
_IDLE_SECONDS = 30  # an idle connection is kept this long
_SPARE_SECONDS = 2  # after requests were told to end, before connections are cut
_BAD_INPUT = 2  # the exit code for what the user can put right


class _Parser(argparse.ArgumentParser):
    """A parser that complains in three lines, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        """Raises instead of printing the usage and leaving."""
        raise ConfigError(
            message,
            "the command line cannot be understood",
            "see python -m r1jax.serve --help",
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Loads a model and serves it until told to stop; gives the exit code."""
    try:
        args = _parser().parse_args(arguments)
        with _bind(args.host, args.port) as listener:
            given = {name: getattr(args, name) for name in _LOAD_FLAGS}
            _keep_compiled(args.compilation_cache)
            if args.tensor_parallel_size:
                given["mesh"] = make_mesh(1, args.tensor_parallel_size)
            llm = load(args.source, **{k: v for k, v in given.items() if v is not None})
            _ = llm.tokenizer  # what has none cannot be served
            try:
                return _serve(llm, args, listener)
            finally:
                llm.close()
    except R1jaxError as error:
        sys.stderr.write(f"{error}\n")
        return _BAD_INPUT
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _serve(llm: LLM, args: argparse.Namespace, listener: socket.socket) -> int:
    options = ServeOptions(
        names=args.served_model_name or [_name(args.source)],
        api_keys=args.api_key or [],
        max_body_bytes=args.max_body_bytes,
        max_queued=args.max_num_queued_reqs,
        keep_alive=args.sse_keep_alive_interval,
    )
    app = create_app(llm, options)
    config = uvicorn.Config(
        app,
        log_config=None,  # uvicorn's own would close handlers of other libraries
        log_level=args.uvicorn_log_level,
        server_header=False,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=args.shutdown_timeout + _SPARE_SECONDS,
        ws="none",
    )
    greeting = describe(llm, options) + invite(options, listener.getsockname())
    server = _Server(config, app.state.admission, args.shutdown_timeout, greeting)
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn hands signals back when it is done; that is not to kill us.
        signal.signal(number, server.stop)
    server.run([listener])
    return 0


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
        """Stops accepting; requests that outlast the patience are told to end."""
        self._admission.draining = True
        loop = asyncio.get_running_loop()
        loop.call_later(self._patience, self._admission.abort)
        await super().shutdown(sockets)

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Takes a signal while uvicorn does not."""
        self.should_exit = True


def describe(llm: LLM, options: ServeOptions) -> str:
    """Says what was loaded: name, parameters, dtype, device, context, cache."""
    pages, page_size = llm.engine.stats().pages_total, llm.engine.options.page_size
    rows = {
        "model": ", ".join(options.names),
        "parameters": f"{llm.parameter_count:,}",
        "dtype": _dtype(llm),
        "device": jax.devices()[0].device_kind,
        "context": f"{llm.engine.max_model_len:,} tokens",
        "cache": f"{pages * page_size:,} tokens",
    }
    return "".join(f"{name:<12}{value}\n" for name, value in rows.items())


def _dtype(llm: LLM) -> str:
    """Names the dtype, and what is of few bits instead."""
    few = dataclasses.asdict(llm.scheme) if llm.scheme else {}
    names = [f"{part} {form}" for part, form in few.items() if form]
    return ", ".join([llm.dtype, *names])


def invite(options: ServeOptions, address: Sequence[Any]) -> str:
    """Says where the server listens, with a command to try."""
    host, port = str(address[0]), address[1]
    near = "127.0.0.1" if ipaddress.ip_address(host).is_unspecified else host
    bracket = "[{}]" if ":" in near else "{}"
    url = f"http://{bracket.format(near)}:{port}/v1"
    key = ' -H "Authorization: Bearer $API_KEY"' if options.api_keys else ""
    message = {"role": "user", "content": "What is 1+1?"}
    body = write_json({"model": options.names[0], "messages": [message]})
    body = body.replace("'", r"'\''")
    return (
        f"{'listening':<12}{url}\n\ntry:  curl {url}/chat/completions{key} "
        f"-H 'Content-Type: application/json' -d '{body}'\n"
    )


def _keep_compiled(folder: str) -> None:
    """Lets JAX keep compiled programs, unless its own setting says where already."""
    if folder and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        path = str(Path(folder).expanduser())
        jax.config.update("jax_compilation_cache_dir", path)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _name(source: str | None) -> str:
    """Names the model after its file or directory, or as it was asked for."""
    if source is None:
        return "r1jax"
    path = Path(source)
    return path.resolve().name.removesuffix(".gguf") if path.exists() else source


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


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("python -m r1jax.serve", allow_abbrev=False, description=__doc__)
    parser.add_argument("source", nargs="?", metavar="SOURCE", help=_SOURCE)
    add = parser.add_argument_group("server").add_argument
    add("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    add(
        "--port",
        type=_whole(0, 65535),
        default=8000,
        help="0 takes a free one (%(default)s)",
    )
    add("--served-model-name", nargs="+", metavar="NAME", help="names for clients")
    add("--api-key", nargs="+", metavar="KEY", help="keys, one of which is required")
    add("--max-body-bytes", type=_whole(1), default=16 * 2**20, help=_BODY)
    add("--max-num-queued-reqs", type=_whole(1), default=1024, help=_QUEUE)
    add("--sse-keep-alive-interval", type=_whole(0), default=15, help=_BEAT)
    add("--shutdown-timeout", type=_whole(0), default=5, help=_DRAIN)
    levels = ("critical", "error", "warning", "info", "debug")
    add("--uvicorn-log-level", choices=levels, default="warning", help="(%(default)s)")
    add = parser.add_argument_group("engine").add_argument
    add("--dtype", help="of the weights: bfloat16, float32, int8, fp8, int4, ...")
    for part in PARTS:
        add(f"--{part}-dtype", metavar="DTYPE", help=_PART.format(part))
    add("--max-model-len", type=_whole(2), help="longest context, in tokens")
    add("--max-num-seqs", type=_whole(1), help="sequences that run at once")
    add("--max-num-batched-tokens", type=_whole(1), help="tokens of a prefill step")
    add("--page-size", type=_whole(1), help="tokens in a page of the cache")
    add("--kernels", action=argparse.BooleanOptionalAction, help=_KERNELS)
    add("--tensor-parallel-size", type=_whole(1), help="devices to cut the model over")
    add("--compilation-cache", metavar="DIR", default=_CACHE, help=_COMPILED)
    add("--num-pages", type=_whole(2), help="pages in the cache")
    add("--memory-utilization", type=float, metavar="SHARE", help=_MEMORY)
    add("--seed", type=int, help="for random weights, and for requests without one")
    return parser


_SOURCE = (
    "an r1jax checkpoint, a Hugging Face model directory, a GGUF file, a preset or a "
    "Hugging Face name; the demonstration model if left out"
)
_PART = "the same for {} weights alone: one of few bits, or 'plain'"
_KERNELS = "whether Pallas kernels run; by default they do on TPUs"
_MEMORY = "share of the memory that the cache may take, if --num-pages is not given"
_CACHE = "~/.cache/r1jax/compiled"
_COMPILED = "where compiled steps are kept, '' for nowhere (%(default)s)"
_BODY = "longest request body (%(default)s)"
_QUEUE = "sequences that may wait before new requests get 503 (%(default)s)"
_BEAT = "seconds of silence before a stream sends a comment, 0 for none (%(default)s)"
_DRAIN = "seconds that running requests are given when stopping (%(default)s)"


def _whole(low: int, high: int = 2**62) -> Callable[[str], int]:
    """Makes a type for integers from `low` to `high`."""

    def whole_number(text: str) -> int:
        number = int(text)
        if low <= number <= high:
            return number
        bound = f"less than {low}" if number < low else f"more than {high}"
        raise argparse.ArgumentTypeError(f"{number} is {bound}")

    return whole_number


if __name__ == "__main__":
    sys.exit(main())
