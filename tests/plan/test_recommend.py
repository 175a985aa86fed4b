"""Slices are tried by shapes before anything is compiled; a table says the result."""

import dataclasses

import jax

from r1jax.cache import Geometry
from r1jax.plan import recommend, report, slices, table
from r1jax.plan.floors import Floor
from r1jax.plan.work import Work
from r1jax.presets import preset
from r1jax.quant import scheme


def described(hbm):
    """Gives CPU devices for a slice of v5e whose memory is as small as asked for."""
    generation = dataclasses.replace(slices.GENERATIONS["v5e"], hbm=hbm)

    def find(name):
        return slices.Slice(name, tuple(jax.devices()[: int(name)]), generation)

    return find


def found(hbm):
    schemes = [("float32", None), ("int8", scheme("int8"))]
    sizes = ("2", "4")
    return recommend.candidates(
        preset("tiny-r1"), schemes, 4, 64, sizes, described(hbm)
    )


def test_of_each_slice_the_best_way_is_kept():
    two = found(2**40)
    assert sorted(one.setup.on.name for one in two) == ["2", "4"]
    assert two[0].most > two[1].most
    assert all(one.dtype == "int8" for one in two)  # fewer bytes to read


def test_what_cannot_hold_the_weights_is_left_out():
    (four,) = found(700_000)
    assert four.setup.on.name == "4"
    assert found(1000) == []


def test_the_table_says_what_fits_and_what_a_step_takes():
    setup = found(2**40)[0].setup
    memory = report.Memory(2**30, 2**29, 0, 0, 8.0, 2**20, 2**17)
    step = report.Step(
        "decode",
        Geometry(4, 0, 0),
        4,
        Work(1, 1, 1),
        Floor(0.01, 0.001, 0.002, 7),
        [],
        1,
    )
    plan = report.Plan("tiny-r1", "int8", setup, 4, memory, [step], {"libtpu": "0"})
    lines = table.table(plan, price=36.0).splitlines()
    expected = 0.01 / 0.379 + 0.002 + 7 * 11.5e-6
    assert f"{'10.0':>8}{'1.0':>9}{'2.0 (7)':>16}{'12.0':>8}" in "\n".join(lines)
    assert any(line.endswith("4 sequences of 64 tokens: fits") for line in lines)
    cost = 36 * setup.on.chips / 3600 * expected / 4 * 1e6
    assert any(f"{cost:,.2f} a million tokens" in line for line in lines)
    assert plan.to_dict()["steps"][0]["floor_seconds"]["total"] == 0.012
