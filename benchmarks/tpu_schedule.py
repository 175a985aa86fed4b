"""Prints the TPU compiler's estimates for our kernels beside those inside JAX.

    python benchmarks/tpu_schedule.py [KERNEL ...] [--chip v6e ...] [--case goal]

No TPU is needed, only the `libtpu` wheel. A line of JSON comes for each program, and a
table at the end: three lower limits of the time (bytes over bandwidth, operations over
the matrix units' peak, issued bundles over the clock) and the largest of them, the
floor. Nothing here is a measured time.
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parents[1]))

from tpu_compile import TOPOLOGIES, Comparison, Program, RefusedError, estimate

from r1jax.pallas.chips import CHIPS, Chip

_HERE = Path(__file__).parent / "tpu_kernels"
_HEADINGS = (
    "kernel",
    "case",
    "chip",
    "bytes us",
    "flops us",
    "bundles us",
    "floor us",
    "binds",
    "MXU main / all",
    "spills main",
    "best peer",
    "its floor",
    "ratio",
    "goal",
)


def main() -> None:
    """Compiles what is asked for, and prints."""
    kernels = sorted(path.stem for path in _HERE.glob("*.py") if _is_kernel(path))
    arguments = _arguments(kernels)
    begun = time.monotonic()
    rows = [
        compare(comparison, CHIPS[name], arguments.peers)
        for kernel in arguments.kernels or kernels
        for name in arguments.chip
        for comparison in _comparisons(kernel, CHIPS[name])
        if arguments.case in comparison.case
    ]
    versions = [f"{p} {importlib.metadata.version(p)}" for p in ("jax", "libtpu")]
    print(f"\n{', '.join(versions)}; {time.monotonic() - begun:.0f} s\n")
    print("\n".join(table(rows)))


def _arguments(kernels: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kernels", nargs="*", metavar="KERNEL", help=", ".join(kernels))
    chips = list(TOPOLOGIES)
    parser.add_argument("--chip", nargs="+", choices=chips, default=chips)
    parser.add_argument("--case", default="", help="part of the cases' names")
    parser.add_argument("--no-peers", dest="peers", action="store_false")
    arguments = parser.parse_args()
    if unknown := set(arguments.kernels) - set(kernels):
        parser.error(f"no kernel {', '.join(unknown)}; there are {', '.join(kernels)}")
    return arguments


def _comparisons(kernel: str, chip: Chip) -> Iterator[Comparison]:
    yield from importlib.import_module(f"tpu_kernels.{kernel}").comparisons(chip)


def _is_kernel(path: Path) -> bool:
    return "def comparisons" in path.read_text()


def compare(comparison: Comparison, chip: Chip, with_peers: bool) -> dict[str, Any]:
    """Estimates and prints a case's programs; returns its row of the table."""
    results = list(_estimates(comparison, chip, with_peers))
    (ours, *_), peers = results, [r for r in results[1:] if "refused" not in r]
    if "refused" in ours:
        raise RefusedError(f"our own {comparison.case}: {ours['refused']}")
    best = min(peers, key=lambda result: result["floor_us"], default=None)
    ratio = best["floor_us"] / ours["floor_us"] if best else None
    return {
        "comparison": comparison,
        "chip": chip.name,
        "ours": ours,
        "best": best,
        "ratio": ratio,
        "goal": _verdict(comparison.goal, ratio),
    }


def _estimates(
    comparison: Comparison, chip: Chip, with_peers: bool
) -> Iterator[dict[str, Any]]:
    place = {"kernel": comparison.kernel, "case": comparison.case, "chip": chip.name}
    for program in [comparison.ours, *(comparison.peers if with_peers else ())]:
        result = _estimate(program, chip, comparison)
        print(json.dumps(place | result), flush=True)
        yield result


def _estimate(program: Program, chip: Chip, comparison: Comparison) -> dict[str, Any]:
    try:
        return estimate(program, chip, comparison.flops, comparison.dtype)
    except RefusedError as error:
        who = {"who": program.who, "blocks": program.blocks}
        return who | {"refused": str(error)}


def _verdict(goal: float | None, ratio: float | None) -> str:
    if goal is None or ratio is None:
        return ""
    return f"{goal:g} {'met' if ratio >= goal else 'missed'}"


def table(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yields the lines of a Markdown table, and the notes under it."""
    rows = list(rows)
    yield f"| {' | '.join(_HEADINGS)} |"
    yield "|---" * len(_HEADINGS) + "|"
    for row in rows:
        ours, best = row["ours"], row["best"]
        cells = [
            row["comparison"].kernel,
            row["comparison"].case,
            row["chip"],
            *(f"{ours[f'{part}_us']:,.1f}" for part in _PARTS),
            ours["binds"],
            f"{ours['mxu_fill']:.0%} / {ours['mxu_fill_all']:.0%}",
            f"{ours['spills']:,}",
            f"{best['who']} {best['blocks']}" if best else "",
            _floor(best) if best else "",
            f"{row['ratio']:.2f}" if best else "",
            row["goal"],
        ]
        yield f"| {' | '.join(cells)} |"
    notes = {row["comparison"].note: row["comparison"].kernel for row in rows}
    yield from ("", *(f"{kernel}: {note}." for note, kernel in notes.items() if note))


def _floor(result: dict[str, Any]) -> str:
    before = f" + {result['before_us']:,.1f}" if result["before_us"] else ""
    return f"{result['floor_us']:,.1f}{before}"


_PARTS = ("bytes", "flops", "bundles", "floor")

if __name__ == "__main__":
    main()
