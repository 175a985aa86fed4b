"""Tokens that someone has computed are not computed again."""

import pytest

from engine.fake_device import simple_answer
from engine.host import Host

SHARED = list(range(20))  # ten pages of two
ROOM = dict(pages=200, page_size=2, slots=4, chunk=4)


def answered(sequence):
    prompt = sequence.tokens[: sequence.prompt_length]
    answer = sequence.tokens[sequence.prompt_length :]
    assert answer == simple_answer(prompt, len(answer))
    return answer


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        (SHARED, 18),  # the last token is always fed, and with it its page
        ([*SHARED, 7], 20),
        ([*SHARED, 7, 7, 7], 20),
        (SHARED[:7], 6),
        ([*SHARED[:7], 49, *SHARED[8:]], 6),
        ([49, *SHARED[1:]], 0),
        (SHARED[2:], 0),  # the same tokens elsewhere are others
        (SHARED[:1], 0),
    ],
)
def test_a_prompt_begins_with_the_pages_it_shares(prompt, found):
    host = Host(**ROOM)
    first = host.add(SHARED)
    host.run()
    second = host.add(prompt, 5)
    host.run()
    assert (first.cached, second.cached) == (0, found)
    assert host.fed(second) == len(prompt) - found
    assert host.scheduler.prefix_queries == len(SHARED) + len(prompt)
    assert host.scheduler.prefix_hits == found
    assert len(answered(second)) == 5


def test_without_prefix_caching_everything_is_computed():
    host = Host(**ROOM, prefix_caching=False)
    for _ in range(2):
        host.add(SHARED)
        host.run()
    assert sum(row.count for row in host.chunks()) == 2 * len(SHARED)
    assert host.scheduler.prefix_queries == host.scheduler.prefix_hits == 0


def test_the_next_turn_of_a_conversation_finds_the_answer_too():
    host = Host(**ROOM)
    first = host.add(SHARED, 9)
    host.run()
    second = host.add([*first.tokens, 1, 2, 3], 3)
    host.run()
    assert second.cached == 28  # of 29 tokens, of which 28 were fed
    answered(second)


def test_choices_of_one_prompt_compute_it_once():
    """Those behind the first wait until it has passed what they share."""
    host = Host(**ROOM)
    choices = [host.add([*SHARED, 5], 6) for _ in range(4)]
    host.run()
    assert [host.fed(choice) for choice in choices] == [21, 1, 1, 1]
    assert [choice.cached for choice in choices] == [0, 20, 20, 20]
    for choice in choices:
        answered(choice)


def test_others_are_not_held_up_by_those_that_wait_for_a_page():
    host = Host(pages=200, page_size=2, slots=4, chunk=130)
    first, second = host.add(list(range(50)) * 3), host.add(list(range(50)) * 3)
    other = host.add([49, 48])
    host.step()
    assert first.slot is not None
    assert second.slot is None
    assert other.slot is not None
    assert host.scheduler.waiting == [second]
    host.run()
    assert (host.fed(first), host.fed(second)) == (150, 2)


def test_who_waits_for_a_page_goes_on_when_its_filler_ends():
    host = Host(**ROOM)
    first, second = host.add(SHARED), host.add(SHARED)
    host.step()
    host.step()
    assert second.slot is None
    host.finish(first)
    host.step()
    assert second.slot is not None
    assert second.found == 8  # two chunks of four tokens
    host.run()
    answered(second)


def test_who_waits_for_a_page_goes_on_when_its_filler_is_preempted():
    host = Host(pages=26, page_size=2, slots=3, chunk=4)
    host.add([49], 20)
    first, second = host.add(SHARED), host.add(SHARED)
    host.step()
    host.scheduler._preempt(first)
    host.step()
    assert first.slot is not None
    host.run()
    for each in (first, second):
        answered(each)
    assert host.fed(first) == len(SHARED)
    assert host.fed(second) == 2


def test_nobody_waits_for_one_of_worse_priority():
    host = Host(**ROOM)
    slow = host.add(SHARED, priority=5)
    host.step()
    quick = host.add(SHARED, priority=1)
    host.step()
    assert quick.slot is not None
    assert slow.computed < len(SHARED)
    host.run()
    answered(slow)
    answered(quick)


def test_a_prompt_that_is_judged_fills_the_cache_and_does_not_read_it():
    host = Host(**ROOM)
    for judged in (0, 0, None):
        last = host.add(SHARED, prompt_logprobs=judged)
        host.run()
    assert [row.start for row in host.chunks() if row.count != 4] == [18]
    assert last.cached == host.scheduler.prefix_hits == 18
    assert host.scheduler.prefix_queries == len(SHARED)


def test_a_preempted_sequence_finds_its_own_pages_and_that_is_no_hit():
    host = Host(**ROOM)
    sequence = host.add(SHARED, 20)
    for _ in range(10):
        host.step()
    host.scheduler._preempt(sequence)
    host.run()
    assert sequence.found > len(SHARED)
    assert sequence.cached == host.scheduler.prefix_hits == 0
    assert len(answered(sequence)) == 20


def test_pages_that_nobody_holds_are_free():
    host = Host(pages=12, page_size=2, slots=1, chunk=8)
    host.add([1] * 10)
    host.run()
    assert host.scheduler.pages_used == 0
    whole = host.add([2] * 23, 1)  # all pages there are
    host.step()
    assert host.scheduler.pages_used == 12
    host.run()
    answered(whole)
    gone = host.add([1] * 10)
    host.run()
    assert gone.cached == 0
    assert host.scheduler.preemptions == 0


def test_a_shard_that_has_the_pages_is_taken_before_one_with_room():
    host = Host(pages=40, page_size=2, slots=2, chunk=4, shards=2)
    first = host.add(SHARED, 30)
    for _ in range(8):
        host.step()
    alike, other = host.add(SHARED), host.add([49] * 9)
    host.step()
    assert (alike.shard, other.shard) == (first.shard, 1 - first.shard)
    again = host.add(SHARED, 2)
    while alike.slot is not None and again.slot is None:
        host.step()
    assert {alike.found, again.found} <= {0, 18}
    host.run()


def test_pages_are_found_only_where_a_sequence_of_that_home_has_them():
    """Segments go round from the home on, so a page fits one home alone."""
    host = Host(pages=20, page_size=2, slots=4, chunk=4, devices=3, columns=12)
    first = host.add(SHARED)
    host.run()
    busy = [host.add([40 + i] * 3, 12) for i in range(2)]
    host.step()
    second = host.add([*SHARED, 1, 2, 3], 4)
    host.run()
    assert second.cached == 20
    assert second.home == first.home
    assert {s.home for s in busy} != {first.home}
    answered(second)
