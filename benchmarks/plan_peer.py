"""R1 decoding on v5e:8x8, ours beside jax-llm-examples', by one estimator.

    python benchmarks/plan_peer.py PATH/TO/deepseek_r1_jax [--batch 8 128]

PATH is a checkout of github.com/jax-ml/jax-llm-examples, its deepseek_r1_jax folder
(read at 8b4b246). Both programs are compiled by the TPU compiler, no TPU is needed, and
`r1jax.plan` works out the floor of each: bytes a device, bytes of cache a token, time.
The peer unrolls its layers; it is compiled with two and three layers of experts, and
each further one costs the difference.

`--calibrate` compares the peer's floors with the times it has published instead.
"""

import argparse
import dataclasses
import importlib
import json
import math
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from r1jax.cache import Geometry
from r1jax.plan import collectives, hlo, slices
from r1jax.plan.calibration import Calibration
from r1jax.plan.floors import Floor, floor_of
from r1jax.plan.program import compile_step, make_setup
from r1jax.plan.work import Leaf, Work, of_weights, work_of
from r1jax.presets import preset
from r1jax.quant import scheme
from r1jax.sharding import local_bytes

SLICE = "v5e:8x8"
DENSE, LAYERS = 3, 61
# Its README, tokens a second of one sequence: batch, context, steps a second.
PUBLISHED = (
    (1, 32, 75.8),
    (1, 512, 75.9),
    (1, 4096, 73.8),
    (1, 8192, 71.0),
    (8, 32, 50.5),
    (8, 512, 48.0),
    (8, 4096, 42.1),
    (8, 8192, 35.6),
    (128, 32, 19.6),
    (128, 512, 17.4),
)


class Found(NamedTuple):
    """What is compared."""

    weights: int  # bytes a device
    cache: float  # bytes a token and device
    temporaries: int
    work: Work
    floor: Floor


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares, or calibrates; prints JSON, one line a result, and a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("peer", type=Path, help="its deepseek_r1_jax folder")
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 128])
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--calibrate", action="store_true")
    args = parser.parse_args(arguments)
    if not (args.peer / "deepseek_r1_jax" / "model.py").exists():
        print(
            f"{args.peer} is no checkout of the peer\n"
            "  why: it has no deepseek_r1_jax/model.py\n"
            "  fix: git clone https://github.com/jax-ml/jax-llm-examples, and give its "
            "folder deepseek_r1_jax"
        )
        return 2
    sys.path.insert(0, str(args.peer))
    slices.prepare(SLICE)
    on = slices.describe(SLICE)
    versions = {name: metadata.version(name) for name in ("jax", "libtpu")}
    print(json.dumps({"slice": SLICE, **versions}))
    if args.calibrate:
        calibrate(on)
        return 0
    for batch in args.batch:
        both = {
            "r1jax": ours(on, batch, args.context),
            "peer": theirs(on, batch, args.context),
        }
        for name, found in both.items():
            print(
                json.dumps(
                    {
                        "who": name,
                        "batch": batch,
                        "context": args.context,
                        **_row(found),
                    }
                )
            )
        mine, other = both.values()
        print(
            f"batch {batch}: time floor {mine.floor.seconds / other.floor.seconds:.2f} "
            f"of the peer's, cache a token and device {mine.cache / other.cache:.3f}"
        )
    return 0


def _row(found: Found) -> dict[str, Any]:
    return {
        "weights_gib": round(found.weights / 2**30, 2),
        "temporaries_mib": round(found.temporaries / 2**20, 1),
        "cache_bytes_a_token_and_device": round(found.cache, 1),
        "read_gb": round(found.work.bytes / 1e9, 2),
        "memory_ms": round(found.floor.memory * 1e3, 2),
        "compute_ms": round(found.floor.compute * 1e3, 2),
        "exchange_ms": round(found.floor.exchange * 1e3, 2),
        "exchanges": found.floor.exchanges,
        "floor_ms": round(found.floor.seconds * 1e3, 2),
    }


def ours(on: slices.Slice, batch: int, context: int) -> Found:
    """Compiles our decode, all layers."""
    setup = make_setup(
        preset("r1"),
        on,
        strategy="throughput",
        data=None,
        tensor=None,
        scheme=scheme("int8"),
        context=context,
    )
    g = Geometry(batch // setup.shards, 0, 0)
    compiled = compile_step(setup, g, g.rows * setup.columns + 1, batch)
    found = collectives.read(hlo.Program(compiled.as_text()), len(on.devices))
    work = work_of(setup, g, context)
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    floor = floor_of(work, found, setup.on)
    return Found(setup.weight_bytes, setup.token_bytes(), temporaries, work, floor)


def theirs(on: slices.Slice, batch: int, context: int) -> Found:
    """Compiles the peer's decode with five and six layers, and goes on to 61."""
    five, six = (_peer(on, batch, context, DENSE + n) for n in (2, 3))

    def whole(pick: Any) -> float:
        a, b = float(pick(five)), float(pick(six))
        return a + (b - a) * (LAYERS - DENSE - 2)

    work = Work(
        whole(lambda f: f.work.weight_bytes),
        whole(lambda f: f.work.cache_bytes),
        whole(lambda f: f.work.flops),
    )
    chip = on.generation.chip if on.generation else None
    assert chip is not None
    floor = Floor(
        work.bytes / chip.bandwidth,
        work.flops / chip.peak["bfloat16"],
        whole(lambda f: f.floor.exchange),
        round(whole(lambda f: f.floor.exchanges)),
    )
    cache = work.cache_bytes / (batch * context)
    return Found(round(whole(lambda f: f.weights)), cache, six.temporaries, work, floor)


def _peer(on: slices.Slice, batch: int, context: int, layers: int) -> Found:
    model = importlib.import_module("deepseek_r1_jax.model")
    grid = np.array(on.devices).reshape(1, 4, 16)  # as its main.py arranges them
    mesh = Mesh(grid, ("x", "y", "z"), axis_types=(AxisType.Auto,) * 3)
    config = dataclasses.replace(
        model.Config(), mesh=mesh, num_layers=layers, max_seq_len=context
    )

    def shapes(kind: Any, *sizes: int) -> Any:
        return jax.tree.map(
            lambda info, where: jax.ShapeDtypeStruct(
                info.shape, info.dtype, sharding=where
            ),
            kind.abstract(config, *sizes),
            kind.shardings(config, *sizes),
            is_leaf=model.is_param,
        )

    weights, cache = shapes(model.Weights), shapes(model.KVCache, batch, context)
    whole = NamedSharding(mesh, PartitionSpec())
    tokens = jax.ShapeDtypeStruct((batch, 1), jnp.int32, sharding=whole)
    with jax.set_mesh(mesh):
        traced = model.decode_step.trace(tokens, weights, cache, config)
        compiled = traced.lower(lowering_platforms=("tpu",)).compile()
    found = collectives.read(hlo.Program(compiled.as_text()), len(on.devices))
    moe = preset("r1").moe
    leaves = [_leaf(*pair) for pair in jax.tree_util.tree_leaves_with_path(weights)]
    read, flops = of_weights(leaves, moe, batch, batch, 1)
    kept = sum(local_bytes(leaf) for leaf in jax.tree.leaves(cache) if leaf.ndim > 2)
    # Scores and mixing of its share of heads, 192 + 128 wide.
    flops += 2 * batch * context * (192 + 128) * (128 / 64) * layers
    work = Work(read, kept, flops)
    held = sum(local_bytes(leaf) for leaf in jax.tree.leaves(weights))
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    return Found(
        held, kept / (batch * context), temporaries, work, floor_of(work, found, on)
    )


def _leaf(path: Any, leaf: Any) -> Leaf:
    names = jax.tree_util.keystr(path)
    local = leaf.sharding.shard_shape(leaf.shape)
    products = math.prod(local) if len(local) > 1 and "scale" not in names else 0
    if "embedding" in names:
        return Leaf("embedding", local_bytes(leaf), 0, local[0])
    kind = "experts" if ".we_" in names else "head" if "lm_head" in names else "dense"
    return Leaf(kind, local_bytes(leaf), products)


def calibrate(on: slices.Slice) -> None:
    """Fits share and overhead to the published times; each point left out in turn."""
    measured, floors = [], []
    for batch, context, rate in PUBLISHED:
        found = theirs(on, batch, context)
        floors.append(found.floor)
        measured.append(1 / rate)
        point = {"batch": batch, "context": context, "measured_ms": 1e3 / rate}
        print(json.dumps({**point, **_row(found)}))
    fitted = Calibration(*fit(floors, measured), "", 0.0)
    worst = 0.0
    for i, (floor, seconds) in enumerate(zip(floors, measured, strict=True)):
        rest = [j for j in range(len(floors)) if j != i]
        others = fit([floors[j] for j in rest], [measured[j] for j in rest])
        with_all = fitted.seconds(floor) / seconds - 1
        left_out = Calibration(*others, "", 0.0).seconds(floor) / seconds - 1
        worst = max(worst, abs(left_out))
        batch, context, _ = PUBLISHED[i]
        print(
            f"batch {batch:3} context {context:4}: measured {seconds * 1e3:5.1f} ms, "
            f"floor {floor.seconds * 1e3:5.1f}, error {with_all:+.1%}, "
            f"left out {left_out:+.1%}"
        )
    found = {"share": round(fitted.share, 3), "overhead_us": fitted.overhead * 1e6}
    print(json.dumps({**found, "worst_left_out": round(worst, 3)}))


def fit(floors: Sequence[Floor], measured: Sequence[float]) -> tuple[float, float]:
    """Returns share and overhead of least squared relative error."""
    busy = np.array([max(f.memory, f.compute) for f in floors])
    rows = np.stack([busy, [f.exchanges for f in floors]], axis=1)
    goal = np.array(measured) - [f.exchange for f in floors]
    weight = 1 / np.array(measured)
    (slowness, overhead), *_ = np.linalg.lstsq(
        rows * weight[:, None], goal * weight, rcond=None
    )
    return 1 / float(slowness), float(overhead)


if __name__ == "__main__":
    sys.exit(main())
