"""Plans a model for a TPU slice: `python -m r1jax.plan r1 --topology v5e:8x8 ...`.

Says whether it fits, how many tokens of cache are left, and how fast a step can be, by
the real TPU compiler. No TPU is needed and no weight is read.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from r1jax.command import Parser, whole
from r1jax.config import ModelConfig
from r1jax.config_hf import from_hf
from r1jax.engine.programs import keep_compiled
from r1jax.errors import CheckpointError, ConfigError, R1jaxError
from r1jax.plan import keep, picture, program, recommend, report, slices, table
from r1jax.presets import NAMES, preset
from r1jax.quant import FORMS, PARTS, scheme
from r1jax.sharding import STRATEGIES
from r1jax.weights import open_source
from r1jax.weights.bucket import is_address
from r1jax.weights.dtypes import chosen_scheme

_BAD_INPUT = 2  # the exit code for what the user can put right
_DTYPES = ("bfloat16", "float32", *FORMS)
# What says nothing when many slices are tried.
_ONE_SLICE = (
    "topology",
    "strategy",
    "data_parallel_size",
    "tensor_parallel_size",
    *(f"{part}_dtype" for part in PARTS),
    "chunk",
    "page_size",
    "picture",
    "compilation_cache",
    "chip_hour_price",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Plans, prints, and gives the exit code: 0 where it fits, 1 where it does not."""
    try:
        args = parser().parse_args(arguments)
        _check(args)
        if args.compilation_cache:
            keep_compiled(args.compilation_cache)
        slices.prepare(args.topology)
        name, config = _model(args.source)
        if args.recommend:
            return _recommend(args, name, config)
        return _plan(args, name, config)
    except R1jaxError as error:
        sys.stderr.write(f"{error}\n")
        return _BAD_INPUT
    except KeyboardInterrupt:
        return 130


def _plan(args: argparse.Namespace, name: str, config: ModelConfig) -> int:
    if args.picture:
        picture.check()
    on = slices.describe(args.topology)
    usual = "bfloat16" if on.generation else "float32"
    dtype = args.dtype or usual
    parts = (getattr(args, f"{part}_dtype") for part in PARTS)
    plain, few = chosen_scheme(config, dtype, *parts, plain=usual)
    setup = program.make_setup(
        config,
        on,
        strategy=args.strategy,
        data=args.data_parallel_size,
        tensor=args.tensor_parallel_size,
        scheme=few,
        dtype=plain,
        context=args.context,
        page_size=args.page_size,
    )
    plan = report.make_plan(name, dtype, setup, args.batch, args.chunk, _say)
    if args.json:
        print(json.dumps(plan.to_dict()))
    else:
        print(table.table(plan, args.chip_hour_price), end="")
    if args.picture:
        picture.draw(plan, args.picture)
        _say(f"drew {args.picture}")
    if args.compilation_cache and plan.fits:
        _keep(args, plan)
    elif args.compilation_cache:
        _say("kept nothing: it does not fit")
    return 0 if plan.fits else 1


def _keep(args: argparse.Namespace, plan: report.Plan) -> None:
    """Compiles the server's steps into a cache, and says which server finds them."""
    rows = plan.batch // plan.setup.shards
    flags = keep.keep(plan.setup, rows, args.chunk, plan.pages, _say)
    forms = {"dtype": plan.dtype}
    forms |= {f"{part}-dtype": getattr(args, f"{part}_dtype") for part in PARTS}
    words = [f"--{name} {form}" for name, form in forms.items() if form]
    words += [" ".join(flags), f"--compilation-cache {args.compilation_cache}"]
    _say(f"kept for: python -m r1jax.serve {args.source} {' '.join(words)}")


def _check(args: argparse.Namespace) -> None:
    """Refuses options that would be ignored beside others."""
    if args.compilation_cache and not args.chunk:
        raise ConfigError(
            "--chunk 0 with --compilation-cache",
            "a server also computes prompts",
            "give its --max-num-batched-tokens as --chunk",
        )
    if args.json and args.chip_hour_price is not None:
        raise ConfigError(
            "--chip-hour-price with --json",
            "prices are in the table alone",
            "leave out one of them",
        )
    usual = vars(parser().parse_args([]))
    alone = [n for n in _ONE_SLICE if getattr(args, n) != usual[n]]
    if args.recommend and alone:
        names = ", ".join("--" + name.replace("_", "-") for name in alone)
        raise ConfigError(
            f"{names} with --recommend",
            "it tries slices, strategies and meshes, and compiles decodes alone",
            "leave it out, or plan the slice that is recommended",
        )


def _recommend(args: argparse.Namespace, name: str, config: ModelConfig) -> int:
    """Ranks slices; of the dtype asked for, or of those that few chips take."""
    few = (args.dtype,) if args.dtype else ("int8", "fp8", "bfloat16")
    schemes = [(dtype, scheme(dtype, config.moe is not None)) for dtype in few]
    found = recommend.candidates(config, schemes, args.batch, args.context)
    _say(f"{len(found)} slices may hold it; compiling {args.recommend} at most")
    some = found[: args.recommend]
    plans = recommend.recommend(name, some, args.batch, _say)
    if args.json:
        print(json.dumps([plan.to_dict() for plan in plans]))
    elif plans:
        print(table.ranking(plans), end="")
    else:
        _say("nothing that was tried fits")
    return 0 if plans else 1


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _model(source: str) -> tuple[str, ModelConfig]:
    """Returns a preset, or the config of a checkpoint; reads no weights."""
    path = Path(source)
    if is_address(source):
        return path.name, open_source(source).config
    if not path.exists():
        return source, preset(source)
    name, config = path.resolve().name, path / "config.json"
    if not config.exists():
        return name, open_source(path).config
    try:
        return name, from_hf(json.loads(config.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{config} cannot be read", str(error), "fetch the checkpoint's again"
        ) from None


def parser() -> Parser:
    """Builds the parser, with its help."""
    parser = Parser(
        "python -m r1jax.plan",
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source", nargs="?", default="r1", metavar="SOURCE", help=_SOURCE
    )
    add = parser.add_argument_group("where").add_argument
    add("--topology", default="v5e:8x8", metavar="SLICE", help=_TOPOLOGY)
    add("--strategy", choices=STRATEGIES, default="throughput", help=_STRATEGY)
    add("--data-parallel-size", type=whole(1), help="devices to cut sequences over")
    add("--tensor-parallel-size", type=whole(1), help="devices to cut heads over")
    add("--recommend", type=whole(1), metavar="N", help=_RECOMMEND)
    add = parser.add_argument_group("what").add_argument
    add("--dtype", choices=_DTYPES, help="of the weights; bfloat16, on a CPU float32")
    for part in PARTS:
        add(f"--{part}-dtype", choices=_DTYPES, help=f"of {part} weights, if another")
    add("--batch", type=whole(1), default=64, help="sequences at once (%(default)s)")
    add("--context", type=whole(2), default=2048, help="tokens of each (%(default)s)")
    add("--chunk", type=whole(0), default=512, help=_CHUNK)
    add(
        "--page-size",
        type=whole(1),
        default=128,
        help="tokens in a page (%(default)s)",
    )
    add = parser.add_argument_group("output").add_argument
    add("--json", action="store_true", help="one JSON object instead of the table")
    add("--picture", type=Path, metavar="FILE.png", help="memory and limits, drawn")
    add("--compilation-cache", metavar="DIR", help=_KEEP)
    add("--chip-hour-price", type=float, metavar="PRICE", help=_PRICE)
    return parser


_SOURCE = (
    f"a preset ({', '.join(NAMES)}) or the directory or GGUF file of a checkpoint, of "
    "which only the config is read (%(default)s)"
)
_TOPOLOGY = (
    "a slice by the compiler's name: v5e:8x8, v6e:4x8, v5p:2x4x4, tpu7x:2x2x2, cpu:8 "
    "(%(default)s)"
)
_STRATEGY = "latency for a few sequences, throughput for many (%(default)s)"
_CHUNK = "prompt tokens of a prefill step in each shard, 0 for none (%(default)s)"
_RECOMMEND = (
    "instead of one slice try many, in both strategies, compile the decode of the N "
    "most promising, and rank them by tokens a second and chip"
)
_KEEP = "compile all that a server would, and keep it there for its start"
_PRICE = "what a chip costs an hour, in any currency: adds the price of tokens"


if __name__ == "__main__":
    sys.exit(main())
