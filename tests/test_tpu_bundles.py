import pytest

from benchmarks import tpu_bundles

# A grid's loop around a loop of two bundles; the empty bundle carries no marks.
BUNDLES = """
= control target key start
LB: loop body
= control target key end

     0   :  { %0 = vdelay 1 }
   0x1 LB: > { %s1 = sphi 0 }
   0x2   : > { %v1 = vld [vmem:[#allocation2]] }
   0x3 LB: >> { %v2 = vmatmul.bf16 %v1 }
   0x4   :  { }
   0x5   : >> { %p = scmp.lt %s1 }
   0x6   : > { %v3 = vst %v2 }
   0x7   :  { %9 = halt }
""".splitlines()
UNITS = """== CAPACITY:
MXU, XLU, VALU
    2     2     4
== UTILIZATION:
    0     0     0
    0     0     1
    0     0     0
    2     0     1
    1     0     0
    0     1     0
    0     0     4
    0     0     0
""".splitlines()


@pytest.fixture
def kernel():
    return tpu_bundles.schedule("toy", BUNDLES, *tpu_bundles.units(UNITS))


def test_each_loop_has_its_own_bundles_and_not_those_of_loops_inside(kernel):
    assert kernel.bundles == 8
    assert [(loop.depth, loop.bundles) for loop in kernel.loops] == [(1, 3), (2, 3)]


def test_the_slots_of_a_unit_are_those_of_the_loop_s_bundles(kernel):
    outer, inner = kernel.loops
    assert (inner.slots["MXU"], inner.slots["XLU"]) == (3, 1)
    assert outer.slots["VALU"] == 5
    assert kernel.fill(inner, "MXU") == 3 / (2 * 3)


def test_a_run_is_each_loop_as_often_as_it_passes(kernel):
    assert kernel.cycles([4, 12]) == 2 + 4 * 3 + 12 * 3
    assert kernel.main([4, 12]) is kernel.loops[1]


def test_what_lies_in_no_loop_runs_once(kernel):
    assert kernel.once.bundles == 2


def test_passes_for_another_number_of_regions_are_refused(kernel):
    with pytest.raises(ValueError, match=r"2 regions, loop 3 \( loop 3 \), but .* 1"):
        kernel.cycles([4])


def skipping(size: int, limit: int = 5) -> list[str]:
    """A loop of `limit` passes, in it a branch over `size` bundles."""
    test = f"%p2_p0 = scmp.ge.s32.totalorder %s2, {limit}  ;;"
    return [
        "   0x0 LB: > { %s1 = sphi 0 } /* Start region 2 */",
        "   0x1   : > { %9 = sbr.rel (%p1) target = $region7  ;; %s2 = sadd.s32 1 }",
        *["   0x2   : > { %v1 = vld }"] * (4 + size),
        "   0x3 PF: > { %v2 = vst } /* Start/End empty region 7 */",
        f"   0x4   : > {{ {test} %9 = sbr.rel (!%p2_p0) target = $region2 }}",
    ]


def test_a_branch_has_its_own_bundles_without_the_delay_slots():
    kernel = tpu_bundles.schedule("toy", skipping(40), {}, [])
    assert kernel.outline() == "loop 8 x5 ( branch 40 )"
    assert kernel.cycles([5, 2]) == 5 * 8 + 2 * 40


def test_a_small_branch_belongs_to_what_is_around_it():
    kernel = tpu_bundles.schedule("toy", skipping(tpu_bundles.SMALL - 1), {}, [])
    assert [region.kind for region in kernel.regions] == ["loop"]


def test_passes_left_out_are_those_around_and_a_constant_limit_must_be_met():
    kernel = tpu_bundles.schedule("toy", skipping(40), {}, [])
    assert kernel.counts([None, None]) == [5, 5]
    with pytest.raises(ValueError, match="4 passes of a loop with a limit of 5"):
        kernel.counts([4, 2])


def test_a_kernel_is_found_by_its_name_and_two_are_not_mixed_up(tmp_path):
    for name in ("toy", "other"):
        (tmp_path / f"17-{name}.1-71-final_bundles.txt").write_text("\n".join(BUNDLES))
        table = tmp_path / f"17-{name}.1-69{tpu_bundles._UNITS}"
        table.write_text("\n".join(UNITS))
    assert tpu_bundles.read(tmp_path, "toy").loops[1].slots["MXU"] == 3
    with pytest.raises(ValueError, match="2 kernels"):
        tpu_bundles.read(tmp_path, ".1")
