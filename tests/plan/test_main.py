"""python -m r1jax.plan: what it prints, and how it refuses."""

import json

import pytest

from r1jax.plan import report
from r1jax.plan.__main__ import main
from tests.pallas.tpu import needs_compiler

TINY = ["tiny-r1", "--topology", "v5e:2x2", "--batch", "4", "--context", "64"]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["r2"], "no preset is called 'r2'"),
        (["tiny-r1", "--topology", "h100:8"], "no slice is called 'h100:8'"),
        (["tiny-r1", "--topology", "cpu:many"], "no slice is called 'cpu:many'"),
        (["tiny-r1", "--topology", "cpu:2", "--context", "9999"], "context of 9999"),
        (["tiny-llama", "--experts-dtype", "int4"], "experts_dtype is 'int4'"),
        (["tiny-r1", "--recommend", "1", "--strategy", "latency"], "--strategy with"),
        (
            ["tiny-r1", "--recommend", "1", "--dense-dtype", "int4"],
            "--dense-dtype with",
        ),
        (["tiny-r1", "--json", "--chip-hour-price", "1"], "--chip-hour-price with"),
        (["tiny-r1", "--chunk", "0", "--compilation-cache", "x"], "--chunk 0 with"),
        (["tiny-r1", "--compilation-cache", "/dev/null/x"], "cannot be kept in"),
        (["tiny-r1", "--batch", "0"], "0 is less than 1"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_three_lines(capsys, arguments, what):
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert what in lines[0]
    assert [line[:6] for line in lines[1:]] == ["  why:", "  fix:"]


def memory(**more):
    sizes = dict(usable=1000, weights=300, state=50, temporaries=50, token=2.5)
    return report.Memory(**sizes, unit=20, unit_tokens=8, **more)


def test_the_cache_is_what_is_left_in_whole_pages():
    assert memory().cache == 600
    assert memory().tokens == (600 // 20 - 1) * 8  # a page of each device for padding


@needs_compiler
@pytest.mark.tpu_compile
def test_a_plan_by_the_real_compiler(capsys):
    assert main([*TINY, "--chunk", "0", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["chips"], plan["fits"]) == (4, True)
    assert plan["mesh"] == {"data": 1, "tensor": 4}
    (step,) = plan["steps"]
    assert step["floor_seconds"]["exchanges"] >= 2 * 3  # attention's, feed-forward's
    assert step["expected_seconds"] > step["floor_seconds"]["total"] > 0
    held = plan["memory"]["weights"] + plan["memory"]["state"] + plan["memory"]["cache"]
    assert held < plan["memory"]["usable"] == int(15.75 * 2**30)


@needs_compiler
@pytest.mark.tpu_compile
def test_sequences_must_divide_over_the_shards(capsys):
    assert main([*TINY, "--batch", "3", "--data-parallel-size", "2"]) == 2
    assert "a batch of 3 over 2 shards" in capsys.readouterr().err


@needs_compiler
@pytest.mark.tpu_compile
def test_weights_that_do_not_fit_are_refused_before_anything_is_compiled(capsys):
    assert main(["r1", "--topology", "v5e:2x2"]) == 2
    assert "no room for a sequence" in capsys.readouterr().err


@needs_compiler
@pytest.mark.tpu_compile
@pytest.mark.slow(minutes=2)
@pytest.mark.parametrize(
    ("topology", "dtype", "tokens"),
    [
        ("v5e:8x8", "int8", 2_000_000),
        ("v6e:4x8", "fp8", 3_000_000),
        ("tpu7x:2x2x2", "fp8", 10_000_000),
        ("v5p:2x4x4", "bfloat16", 20_000_000),
    ],
)
def test_r1_fits(capsys, topology, dtype, tokens):
    asked = ["--topology", topology, "--dtype", dtype, "--batch", "64", "--json"]
    assert main(["r1", *asked]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["form"] == "kernels"
    assert plan["memory"]["tokens"] >= tokens
