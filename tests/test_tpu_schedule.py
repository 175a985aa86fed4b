"""The benchmark of the TPU kernels: passes fit the loops that the compiler made."""

import json
import subprocess
import sys

import pytest

from tests.pallas.tpu import needs_compiler

pytestmark = [pytest.mark.tpu_compile, needs_compiler]
FEW = [
    ("expert_dispatch", "v5e", "r1-v5e64-t64 sum"),
    ("flash_prefill", "v6e", "r1-tensor8-512"),
    ("gqa_attention", "v5e", "llama-70b-tensor8-decode"),
    ("grouped_matmul", "v6e", "1024 rows, 4 experts, down"),
    ("mla_attention", "v7x", "r1-tensor8-decode-32x2048"),
    ("quant_matmul", "v7x", "R1 q_b"),
]
MORE = [
    ("flash_prefill", "v7x", "r1-tensor8-2048-behind-30720"),
    ("gqa_attention", "v7x", "llama-8b-tensor4-mixed-512+8"),
    ("grouped_matmul", "v5e", "8 rows, 16 experts, int4"),
    ("grouped_matmul", "v7x", "64 rows, 8 experts, fp8 down"),
    ("mla_attention", "v6e", "r1-mixed-512+8"),
    ("quant_matmul", "v6e", "R1 kv_a"),
]
KEYS = {"bytes_us", "flops_us", "bundles_us", "floor_us", "binds", "mxu_fill", "spills"}


LIMITS = ("bytes", "flops", "bundles")


def estimate(kernel, chip, case, *options):
    """Runs in a process of its own: where to dump is said when libtpu is loaded."""
    command = [sys.executable, "benchmarks/tpu_schedule.py", kernel]
    command += ["--chip", chip, "--case", case, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")], lines


def fits(kernel, chip, case):
    results, lines = estimate(kernel, chip, case, "--no-peers")
    ours = next(r for r in results if r["case"] == case)
    assert set(ours) >= KEYS
    assert ours["floor_us"] == max(ours[f"{limit}_us"] for limit in LIMITS)
    # No kernel is faster than its matrix products.
    assert ours["bundles_us"] > ours["flops_us"]
    assert any(line.startswith(f"| {kernel} | {case} | {chip} |") for line in lines)


@pytest.mark.parametrize(("kernel", "chip", "case"), FEW)
def test_passes_fit_the_loops(kernel, chip, case):
    fits(kernel, chip, case)


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "chip", "case"), MORE)
def test_passes_fit_the_loops_of_larger_cases(kernel, chip, case):
    fits(kernel, chip, case)


@pytest.mark.slow
def test_the_best_peer_comes_into_the_table():
    results, lines = estimate("flash_prefill", "v6e", "llama8b-tensor4-2048")
    peers = [r["floor_us"] for r in results if r["who"] != "r1jax" and "floor_us" in r]
    row = next(line for line in lines if line.startswith("| flash_prefill"))
    assert f"| {min(peers):,.1f} |" in row
