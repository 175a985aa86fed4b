"""Who goes first, who gives way, and that nobody is forgotten."""

from engine.fake_device import simple_answer
from engine.host import Host


def order_of_ends(host, sequences):
    ends = []
    while not all(s.finished for s in sequences):
        host.step()
        ends += [s for s in sequences if s.finished and s not in ends]
    return ends


def test_the_lower_number_is_served_first_and_arrival_decides_among_equals():
    host = Host(pages=50, page_size=2, slots=1, chunk=8)
    a, b, c, d = (host.add([i], priority=p) for i, p in enumerate((2, 1, -3, 1)))
    assert order_of_ends(host, [a, b, c, d]) == [c, b, d, a]
    assert host.scheduler.preemptions == 0


def test_a_better_priority_takes_the_slot_of_the_worst():
    host = Host(pages=50, page_size=2, slots=2, chunk=8)
    worst, bad = host.add([1], 20, priority=9), host.add([2], 20, priority=5)
    host.step()
    host.step()
    good = host.add([3], 20, priority=1)
    plan = host.step()
    assert worst.slot is None
    assert {s.id for s in host.scheduler.running} == {bad.id, good.id}
    assert [row.sequence for _, _, row in plan.placed()] == [bad, good]
    host.run()
    for sequence, prompt in ((worst, 1), (bad, 2), (good, 3)):
        assert sequence.tokens[1:] == simple_answer([prompt], 20)
    assert host.scheduler.preemptions == 1


def test_an_equal_priority_waits_for_a_slot():
    host = Host(pages=50, page_size=2, slots=1, chunk=8)
    first = host.add([1], 9, priority=4)
    host.step()
    second = host.add([2], 9, priority=4)
    assert order_of_ends(host, [first, second]) == [first, second]
    assert host.scheduler.preemptions == 0


def test_a_better_priority_takes_pages_where_slots_are_left():
    host = Host(pages=12, page_size=2, slots=4, chunk=8)
    middle, worst = (host.add([i] * 9, 5, priority=i) for i in (4, 8))
    for _ in range(3):
        host.step()
    good = host.add([1] * 4, 2, priority=0)
    host.step()
    assert worst.slot is None
    assert middle.slot is not None
    assert good.slot is not None
    host.run()
    assert worst.tokens[9:] == simple_answer([8] * 9, 5)


def test_pages_that_run_out_are_taken_from_the_worst_whoever_came_first():
    host = Host(pages=10, page_size=2, slots=2, chunk=8)
    worse = host.add([1] * 6, 12, priority=1)
    host.step()
    better = host.add([2] * 6, 12, priority=0)
    assert order_of_ends(host, [worse, better]) == [better, worse]
    assert host.scheduler.preemptions > 0
    assert worse.tokens[6:] == simple_answer([1] * 6, 12)


def test_the_shard_of_the_worst_gives_way():
    host = Host(pages=50, page_size=2, slots=1, chunk=8, shards=2)
    bad, worst = (host.add([i], 9, priority=i) for i in (4, 8))
    host.step()
    good = host.add([1], 9)
    host.step()
    assert bad.slot is not None
    assert worst.slot is None
    assert good.shard == worst.shard
    host.run()
    assert worst.tokens[1:] == simple_answer([8], 9)


def test_a_long_prompt_delays_decodes_by_one_chunk_at_most():
    host = Host(pages=400, page_size=2, slots=4, chunk=8)
    talkers = [host.add([i], 40) for i in range(2)]
    host.step()
    host.step()
    long = host.add([9] * 16 * 8)
    while not long.finished:
        plan = host.step()
        [share] = plan.shares
        assert [row.sequence for row in share.decodes] == talkers
        assert sum(row.count for row in share.chunks) <= 8
    assert sum(row.sequence is long for row in host.chunks()) == 16


def test_a_short_prompt_does_not_wait_for_all_of_a_long_one():
    host = Host(pages=400, page_size=2, slots=4, chunk=8)
    long = host.add([9] * 16 * 8)
    host.step()
    short = [host.add([i] * 8) for i in range(2)]
    turns = [row.sequence for _ in range(5) for row in host.step().shares[0].chunks]
    assert turns.count(long) >= 2
    assert set(short) <= set(turns)
    host.run()
    assert len(host.chunks()) == 18


def test_a_long_prompt_is_fed_every_other_step_however_many_short_ones_come():
    host = Host(pages=400, page_size=2, slots=4, chunk=8)
    long = host.add([9] * 16 * 8)
    for i in range(32):
        host.add([i % 7, i % 5] * 4)
        host.step()
    assert long.computed == 16 * 8
    host.run()


def test_equals_are_fed_in_the_order_of_arrival():
    host = Host(pages=400, page_size=2, slots=4, chunk=8)
    sequences = [host.add([i] * 32) for i in range(3)]
    assert order_of_ends(host, sequences) == sequences
    fed = [row.sequence for row in host.chunks()]
    assert fed == [s for s in sequences for _ in range(4)]


def test_a_short_prompt_of_worse_priority_waits_its_turn():
    host = Host(pages=400, page_size=2, slots=4, chunk=8)
    long, short = host.add([9] * 64, priority=0), host.add([1], priority=1)
    assert order_of_ends(host, [long, short]) == [long, short]
