"""From flags to the options of the server."""

import argparse
import os
from pathlib import Path

from r1jax.errors import ConfigError
from r1jax.serve.app import Cors, ServeOptions
from r1jax.serve.flags import parser
from r1jax.serve.generation import Limits

_KEY_VARIABLE = "R1JAX_API_KEY"
_SERVER_FLAGS = (
    *("host", "port", "api_key", "api_key_file", "max_body_bytes", "profiler_dir"),
    *("sse_keep_alive_interval", "shutdown_timeout", "max_num_queued_reqs"),
    *("max_num_queued_tokens", "queue_timeout", "request_timeout", "step_timeout"),
    *("ssl_certfile", "ssl_keyfile", "ssl_ca_certs", "ssl_cert_reqs"),
    *("allowed_origins", "allowed_methods", "allowed_headers", "allow_credentials"),
    "uvicorn_log_level",
)


def batch_files(args: argparse.Namespace) -> tuple[Path, Path]:
    """Gives the files of a batch, its requests and its answers.

    Raises:
      ConfigError: One of them is missing, both are the same, or a flag is of a server.
    """
    if not (args.batch and args.output):
        raise ConfigError(
            "--batch and --output go together",
            "a batch is read from one file, and answered in another",
            "name both",
        )
    for name in _SERVER_FLAGS:
        if getattr(args, name) != parser().get_default(name):
            raise ConfigError(
                f"--{name.replace('_', '-')} together with --batch",
                "a batch is answered without a server",
                "leave it out",
            )
    source, output = Path(args.batch), Path(args.output)
    if output.exists() and source.exists() and output.samefile(source):
        raise ConfigError(
            f"{output} is the batch itself",
            "answers would be added to it",
            "name another --output",
        )
    return source, output


def _keys(args: argparse.Namespace) -> list[str]:
    """Gathers the keys from the flags, the environment and a file.

    Raises:
      ConfigError: The file cannot be read, or holds none.
    """
    keys = [*(args.api_key or ()), *filter(None, [os.environ.get(_KEY_VARIABLE)])]
    if args.api_key_file:
        try:
            text = Path(args.api_key_file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise _bad_keys(args.api_key_file, str(error)) from None
        more = [line.strip() for line in text.splitlines() if line.strip()]
        if not more:
            raise _bad_keys(
                args.api_key_file, "it holds no key, so all would be let in"
            )
        keys += more
    return keys


def _bad_keys(path: str, why: str) -> ConfigError:
    return ConfigError(f"no keys in {path}", why, "write one key a line")


def options_of(args: argparse.Namespace) -> ServeOptions:
    """Turns the flags into the server's options.

    Raises:
      ConfigError: Flags do not go together, or a file of keys is no good.
    """
    cors = None
    if args.allowed_origins:
        origins, methods, headers = (
            [name for some in given or [["*"]] for name in some]
            for given in (
                args.allowed_origins,
                args.allowed_methods,
                args.allowed_headers,
            )
        )
        cors = Cors(origins, methods, headers, args.allow_credentials)
    elif args.allowed_methods or args.allowed_headers or args.allow_credentials:
        raise ConfigError(
            "CORS flags without --allowed-origins",
            "as long as no origin is allowed they allow nothing",
            "name the origins, or '*'",
        )
    return ServeOptions(
        names=args.served_model_name or [_name(args.source)],
        api_keys=_keys(args),
        max_body_bytes=args.max_body_bytes,
        limits=Limits(
            args.max_num_queued_reqs,
            args.max_num_queued_tokens,
            args.queue_timeout,
            args.request_timeout,
        ),
        keep_alive=args.sse_keep_alive_interval,
        cors=cors,
        profiler_dir=args.profiler_dir,
    )


def _name(source: str | None) -> str:
    """Names the model after its file or directory, or as it was asked for."""
    if source is None:
        return "r1jax"
    path = Path(source)
    if path.exists():
        return path.resolve().name.removesuffix(".gguf")
    return source.partition("@")[0]  # a revision is not part of a name
