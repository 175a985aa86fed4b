"""Exchanges are read out of compiled programs: kinds, bytes, groups, repetitions."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from r1jax.plan import collectives, hlo, slices
from tests.pallas.tpu import devices, needs_compiler

LOOP = """
HloModule loop

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (p: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %p = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) parameter(0)
  %x = bf16[8,128]{1,0:T(8,128)(2,1)} get-tuple-element(%p), index=1
  %psum.1 = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} all-reduce(%x), channel_id=1, \
replica_groups={{0,1},{2,3}}, to_apply=%add, \
metadata={op_name="jit(f)/while/body/moe/psum"}
  ROOT %t = (s32[], bf16[8,128]) tuple(%i, %psum.1)
}

%condition (p: (s32[], bf16[8,128])) -> pred[] {
  %n = s32[]{:T(128)} constant(5), backend_config={"a":1}
  %p = (s32[], bf16[8,128]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

%until_done (p: (s32[], bf16[8,128])) -> pred[] {
  %p = (s32[], bf16[8,128]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] get-tuple-element(%p), index=2
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

%sparse (p: f32[3]) -> f32[3] {
  %p = f32[3] parameter(0)
  ROOT %r = f32[3] all-reduce(%p), replica_groups={{0,3},{1,2}}, to_apply=%add
}, execution_thread="sparsecore"

%less (p: f32[]) -> f32[] {
  ROOT %p = f32[] parameter(0)
}

%more (p: f32[4]) -> f32[4] {
  %p = f32[4] parameter(0)
  ROOT %r = f32[4] all-reduce(%p), replica_groups={}, to_apply=%add
}

ENTRY %main (x: bf16[8,128]) -> bf16[8,128] {
  %x = bf16[8,128] parameter(0)
  %w = (s32[], bf16[8,128]) while(%t), condition=%condition, body=%body
  %v = (s32[], bf16[8,128]) while(%t), condition=%until_done, body=%body
  %c = f32[4] conditional(%i, %p, %p), branch_computations={%more, %less}
  %g = (f32[4], f32[16]) all-gather-start(%y), replica_groups=[1,4]<=[4], dimensions={0}
  %s = f32[2,8]{1,0} reduce-scatter(%y), replica_groups=[2,2]<=[2,2]T(1,0), \
to_apply=%add
  %d = ((f32[3]), f32[3]) call-start(%y), async_execution_thread="sparsecore", \
to_apply=%sparse
  %k.7 = f32[8] custom-call(%y), custom_call_target="tpu_custom_call", \
backend_config={"cost_estimate":{"flops":"0","remote_bytes_transferred":"640"}}
  ROOT %r = bf16[8,128] get-tuple-element(%w), index=1
}
"""


def test_a_loop_s_exchanges_count_as_often_as_it_turns():
    first, second, *_ = collectives.read(hlo.Program(LOOP), 4)
    assert (first.kind, first.bytes, first.group) == ("all-reduce", 2048, (0, 1))
    assert (first.times, first.known, first.where) == (5, True, "moe/psum")
    assert (second.times, second.known) == (1, False)


def test_of_branches_the_one_that_sends_least_is_counted():
    kinds = [one.kind for one in collectives.read(hlo.Program(LOOP), 4)]
    sent = ["all-reduce", "all-reduce", "all-gather", "reduce-scatter", "all-reduce"]
    assert kinds == [*sent, "k"]


def test_bytes_are_those_of_the_whole_array():
    *_, gather, scatter, sparse, kernel = collectives.read(hlo.Program(LOOP), 4)
    assert (gather.bytes, gather.sent) == (64, 48)
    assert (scatter.bytes, scatter.group, scatter.sent) == (128, (0, 2), 64)
    assert (sparse.bytes, sparse.group, sparse.sent) == (12, (0, 3), 12)
    assert (kernel.bytes, kernel.sent, len(kernel.group)) == (640, 640, 4)


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,2},{1,3}}", [(0, 2), (1, 3)]),
        ("replica_groups={}", [(0, 1, 2, 3, 4, 5, 6, 7)]),
        ("replica_groups=[2,4]<=[8]", [(0, 1, 2, 3), (4, 5, 6, 7)]),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", [(0, 4), (1, 5), (2, 6), (3, 7)]),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}", [(0, 4), (1, 5), (2, 6), (3, 7)]),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", [(0, 1, 2, 3), (4, 5, 6, 7)]),
        ("replica_groups=mesh['a'=8] {'a':(2)2}", [(0, 2), (1, 3), (4, 6), (5, 7)]),
        (
            "replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}",
            [(0, 4), (1, 5), (2, 6), (3, 7)],
        ),
        ("source_target_pairs={{0,1},{1,2},{2,0}}", [(0, 1, 2)]),
    ],
)
def test_groups_are_read_in_every_form(text, groups):
    assert collectives.groups(f"%x), {text}, dimensions={{0}}", 8) == groups


def test_unknown_groups_are_not_guessed():
    with pytest.raises(ValueError, match="unknown form"):
        collectives.groups("replica_groups=by_magic", 8)


@needs_compiler
@pytest.mark.tpu_compile
def test_a_psum_in_a_scan_of_five_is_read_from_the_real_compiler():
    mesh = Mesh(devices("v5e:2x2"), ("x",))
    x = jax.ShapeDtypeStruct(
        (8, 512), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(None, "x"))
    )

    def run(x):
        def turn(x, _):
            return jnp.tanh(jax.lax.psum(x, "x")), None

        return jax.lax.scan(turn, x, None, length=5)[0]

    part = PartitionSpec(None, "x")
    mapped = jax.shard_map(
        run, mesh=mesh, in_specs=part, out_specs=part, check_vma=False
    )
    with jax.set_mesh(mesh):
        compiled = jax.jit(mapped).trace(x).lower(lowering_platforms=("tpu",)).compile()
    (found,) = collectives.read(hlo.Program(compiled.as_text()), 4)
    assert (found.kind, found.bytes, found.group) == ("all-reduce", 4096, (0, 1, 2, 3))
    assert (found.times, found.known) == (5, True)


class Chip:
    def __init__(self, *coords):
        self.coords = coords


def torus(chip, *size, cores=1):
    import itertools

    places = itertools.product(*(range(n) for n in size))
    made = [Chip(*at) for at in places for _ in range(cores)]
    return slices.Slice(chip, tuple(made), slices.GENERATIONS[chip])


def test_a_row_of_a_torus_is_a_ring_and_of_a_part_of_it_a_line():
    assert torus("v5e", 16, 16, 1).ring(range(16)) == (8, 2)
    assert torus("v5e", 8, 8, 1).ring(range(8)) == (7, 1)
    assert torus("v5p", 4, 4, 4).ring(range(4)) == (2, 2)
    assert torus("v5p", 2, 4, 4).ring(range(4)) == (3, 1)  # less than a cube


def test_groups_between_each_other_share_links():
    assert torus("v5e", 8, 8, 1).ring(range(0, 8, 2)) == (6, 4 / 7)
    assert torus("v7x", 2, 2, 1, cores=2).ring(range(0, 8, 2)) == (2, 1)
    assert torus("v7x", 2, 2, 1, cores=2).ring(range(8)) == (2, 2)


def test_time_is_hops_and_bytes_over_links():
    on = torus("v5e", 8, 8, 1)
    row = tuple(range(8))
    one = collectives.Collective("all-reduce", 8_000_000, row, 3, True, "")
    # Two passes of 7 hops; 2 x 7/8 of 8 MB over one link of 50 GB/s.
    assert one.seconds(on) == pytest.approx(3 * (14e-6 + 280e-6))
