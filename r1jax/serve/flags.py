"""The flags of `python -m r1jax.serve`, named as vLLM's where the thing is the same."""

import argparse
import json

from r1jax.command import Parser, whole
from r1jax.quant import PARTS
from r1jax.serve.log import FORMATS, LEVELS
from r1jax.sharding import STRATEGIES


def parser() -> Parser:
    """Builds the parser, with its help."""
    parser = Parser("python -m r1jax.serve", allow_abbrev=False, description=_ABOUT)
    parser.add_argument("source", nargs="?", metavar="SOURCE", help=_SOURCE)
    add = parser.add_argument_group("server").add_argument
    add("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    add(
        "--port",
        type=whole(0, 65535),
        default=8000,
        help="0 takes a free one (%(default)s)",
    )
    add("--served-model-name", nargs="+", metavar="NAME", help="names for clients")
    add("--api-key", nargs="+", metavar="KEY", help=_KEYS)
    add("--api-key-file", metavar="FILE", help="more of them, one a line")
    add("--max-body-bytes", type=whole(1), default=16 * 2**20, help=_BODY)
    add("--sse-keep-alive-interval", type=whole(0), default=15, help=_BEAT)
    add("--shutdown-timeout", type=whole(0), default=5, help=_DRAIN)
    add("--profiler-dir", metavar="DIR", help=_PROFILE)
    _add_limits(parser)
    _add_security(parser)
    _add_log(parser)
    _add_batch(parser)
    add = parser.add_argument_group("processes", _PROCESSES).add_argument
    add("--coordinator", metavar="HOST:PORT", help="where process 0 meets the others")
    add("--num-processes", type=whole(1), help="how many processes there are")
    add("--process-id", type=whole(0), help="which one this is, from 0")
    add("--initialization-timeout", type=whole(1), default=300, help=_MEET)
    add = parser.add_argument_group("engine").add_argument
    add("--dtype", help="of the weights: bfloat16, float32, int8, fp8, int4, ...")
    for part in PARTS:
        add(f"--{part}-dtype", metavar="DTYPE", help=f"of {part} weights, if another")
    add("--max-model-len", type=whole(2), help="longest context, in tokens")
    add("--max-num-seqs", type=whole(1), help="sequences that run at once")
    add("--max-num-batched-tokens", type=whole(1), help="tokens of a prefill step")
    add("--page-size", type=whole(1), help="tokens in a page of the cache")
    add("--kernels", action=argparse.BooleanOptionalAction, help=_KERNELS)
    add("--tensor-parallel-size", type=whole(1), help="devices to cut the model over")
    add("--strategy", choices=STRATEGIES, help=_STRATEGY)
    add(
        "--data-parallel-size",
        type=whole(1),
        help="sets of devices, a part of the sequences each",
    )
    add("--redundant-experts", type=whole(1), metavar="R", help=_COPIES)
    add("--expert-loads", metavar="FILE", help=_LOADS)
    add("--speculative-config", metavar="JSON", help=_SPECULATION)
    add("--compilation-cache", metavar="DIR", default=_CACHE, help=_COMPILED)
    add("--num-pages", type=whole(2), help="pages in the cache")
    switch = argparse.BooleanOptionalAction
    add("--enable-prefix-caching", dest="prefix_caching", action=switch, help=_PREFIX)
    add("--memory-utilization", type=float, metavar="SHARE", help=_MEMORY)
    add("--seed", type=int, help="for random weights, and for requests without one")
    return parser


def _add_limits(parser: Parser) -> None:
    add = parser.add_argument_group("limits").add_argument
    add("--max-num-queued-reqs", type=whole(1), default=1024, help=_QUEUE)
    add("--max-num-queued-tokens", type=whole(1), help=_QUEUED_TOKENS)
    add("--queue-timeout", type=_seconds, default=0.0, help=_QUEUE_TIME)
    add("--request-timeout", type=_seconds, default=0.0, help=_REQUEST_TIME)
    add("--step-timeout", type=_seconds, default=300.0, help=_STEP_TIME)


def _add_security(parser: Parser) -> None:
    add = parser.add_argument_group("TLS and CORS").add_argument
    add("--ssl-certfile", metavar="FILE", help="certificate, PEM; with it HTTPS")
    add("--ssl-keyfile", metavar="FILE", help="its key, if it is not in there")
    add("--ssl-ca-certs", metavar="FILE", help="authorities of clients' certificates")
    add("--ssl-cert-reqs", type=whole(0, 2), default=0, help=_CLIENT_CERTS)
    for what in ("origins", "methods", "headers"):
        add(f"--allowed-{what}", type=_names, nargs="+", metavar="NAME", help=_CORS)
    add("--allow-credentials", action="store_true", help="pages may send cookies")


def _add_log(parser: Parser) -> None:
    add = parser.add_argument_group("log, to standard error").add_argument
    add("--log-level", choices=LEVELS, default="info", help=_LOG)
    add("--log-format", choices=FORMATS, default="text", help="(%(default)s)")
    add("--uvicorn-log-level", choices=LEVELS, default="warning", help="(%(default)s)")


def _add_batch(parser: Parser) -> None:
    add = parser.add_argument_group("offline, without a server").add_argument
    add("--batch", metavar="FILE", help="requests in the form of OpenAI's batches")
    add("--output", metavar="FILE", help="their answers; goes on where it was stopped")


def _seconds(text: str) -> float:
    """Reads a number of seconds, 0 or more."""
    seconds = float(text)
    if not 0 <= seconds < 1e9:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds")
    return seconds


_seconds.__name__ = "number of seconds"


def _names(text: str) -> list[str]:
    """Reads one name, or a JSON list of them, as vLLM wants it."""
    if not text.startswith("["):
        return [text]
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise argparse.ArgumentTypeError(f"{text} is no JSON list of strings")
    return names


_ABOUT = "Serves a model over HTTP, with OpenAI's API."
_SOURCE = (
    "an r1jax checkpoint, a Hugging Face model directory, a GGUF file, a preset or a "
    "Hugging Face name (or name@revision); r1-nano, which is in the package, if left "
    "out"
)
_PROCESSES = (
    "Several processes run one program, each on its own devices: start each with the "
    "same flags but for --process-id. Process 0 serves. On TPU slices, under Slurm and "
    "Open MPI none of these is needed."
)
_MEET = "seconds that the processes wait for each other (%(default)s)"
_KERNELS = "whether Pallas kernels run; by default they do on TPUs"
_STRATEGY = "whether a mesh serves few sequences, or many (the default)"
_MEMORY = "share of the memory that the cache may take, if --num-pages is not given"
_PREFIX = "whether a prompt begins with what an earlier one has computed (it does)"
_COPIES = "copies of the busiest experts on a mesh; needs --expert-loads"
_LOADS = "counts by which experts are placed on a mesh, of tools/count_routes.py"
_SPECULATION = (
    "guess tokens ahead and verify several in a step, as vLLM's: "
    '{"method": "ngram" or "mtp", "num_speculative_tokens": ..., '
    '"prompt_lookup_max": ..., "prompt_lookup_min": ...}'
)
_CACHE = "~/.cache/r1jax/compiled"
_COMPILED = (
    "where compiled steps are kept, a folder or gs://..., '' for nowhere (%(default)s)"
)
_BODY = "longest request body (%(default)s)"
_QUEUE = "sequences that may wait before new requests get 503 (%(default)s)"
_KEYS = "keys, one of which is required; R1JAX_API_KEY in the environment is one more"
_QUEUED_TOKENS = "prompt tokens that may wait before new requests get 503"
_QUEUE_TIME = "seconds until a request without a token gets 503, 0 for never"
_REQUEST_TIME = "seconds until an unfinished request gets 504, 0 for never"
_STEP_TIME = (
    "seconds after which a step that does not end is a failure: the server ends with "
    "code 1; 0 for never (%(default)g)"
)
_CLIENT_CERTS = "client's certificate: 0 not asked for, 1 optional, 2 required"
_CORS = "for pages of other sites; nothing is allowed if no origin is"
_LOG = "info has one line a request, never its words (%(default)s)"
_PROFILE = "where POST /start_profile and /stop_profile write traces of the device"
_BEAT = "seconds of silence before a stream sends a comment, 0 for none (%(default)s)"
_DRAIN = "seconds that running requests are given when stopping (%(default)s)"
