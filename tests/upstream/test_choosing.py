"""Which replica a call goes to: the same everywhere, evenly, and moved only where it must be."""

from collections import Counter

import pytest

from proxy.upstream.choosing import ROOM, least_open, nearest
from proxy.upstream.replica import Replica


class Named:
    """What a replica knows of its upstream."""

    def __init__(self, url):
        self.base_url, self.name = url, url.removeprefix("http://")


def replicas(count, **options):
    return [Replica(Named(f"http://vllm-{n}.vllm:8000/v1"), **options) for n in range(count)]


SESSIONS = [f"resp_{number:x}" for number in range(4000)]


def places(there, sessions=SESSIONS, **load):
    return {session: nearest(there, session, 1.25, load.get("open", 10**6)).name for session in sessions}


@pytest.mark.parametrize("count", [2, 3, 8, 32])
def test_sessions_are_spread_evenly(count):
    shares = Counter(places(replicas(count)).values())
    assert len(shares) == count
    fair = len(SESSIONS) / count
    assert all(abs(share - fair) < 5 * fair**0.5 for share in shares.values())  # five standard deviations


def test_the_order_of_the_replicas_changes_nothing():
    there = replicas(5)
    assert places(there) == places(there[::-1])


def test_every_process_chooses_alike():
    """Known values: another release, or another Python, must not move what lies in caches."""
    found = places(replicas(8), ["a", "b", "c", "d", "\ud800"]).values()
    assert [name.partition(".")[0] for name in found] == ["vllm-2", "vllm-1", "vllm-7", "vllm-6", "vllm-4"]


def test_a_replica_that_goes_takes_only_its_own_sessions_and_they_go_to_all_others():
    there = replicas(6)
    before, after = places(there), places(there[1:])
    moved = {session for session in SESSIONS if before[session] != after[session]}
    assert moved == {session for session in SESSIONS if before[session] == there[0].name}
    assert {after[session] for session in moved} == {replica.name for replica in there[1:]}


def test_a_replica_that_comes_takes_no_more_than_its_share():
    before, after = places(replicas(5)), places(replicas(6))
    moved = [session for session in SESSIONS if before[session] != after[session]]
    assert {after[session] for session in moved} == {"vllm-5.vllm:8000/v1"}
    assert len(moved) < 1.2 * len(SESSIONS) / 6


def test_one_that_has_more_than_its_share_is_passed_over_for_the_next():
    there = replicas(4)
    first = nearest(there, "s", 1.25, 0)
    first.open = 12
    assert nearest(there, "s", 1.25, 39) is first  # 1.25 * 40 / 4 = 12.5: room for a 13th
    first.open = 13
    second = nearest(there, "s", 1.25, 39)
    assert second is nearest([replica for replica in there if replica is not first], "s", 1.25, 39)


def test_who_has_little_to_do_is_never_passed_over():
    there = replicas(4)
    first = nearest(there, "s", 1.25, 0)
    first.open = ROOM - 1
    assert nearest(there, "s", 1.25, ROOM - 1) is first
    first.open = ROOM
    assert nearest(there, "s", 1.25, ROOM) is not first


@pytest.mark.parametrize("opened", [0, 1, 7, 100])
def test_a_share_is_never_full_everywhere(opened):
    """However the open requests lie, there is one with less than the least factor's share."""
    there = replicas(3)
    for replica in there:
        replica.open = opened
    assert nearest(there, "s", 1.0, 3 * opened)


def test_bounded_load_holds_while_one_session_has_all_the_calls():
    there = replicas(4)
    for opened in range(100):
        nearest(there, "one for all", 1.25, opened).open += 1
    assert max(replica.open for replica in there) <= 32  # 1.25 * 100 / 4, rounded up


def test_without_a_session_the_least_loaded_is_asked_and_all_in_turn():
    there = replicas(3)
    assert Counter(least_open(there, turn).name for turn in range(30)) == Counter({r.name: 10 for r in there})
    there[0].open = there[2].open = 1
    assert {least_open(there, turn) for turn in range(3)} == {there[1]}


def test_one_with_more_than_its_share_is_asked_where_all_others_have_as_many_as_they_may():
    limited, other = *replicas(1, limit=4), Replica(Named("http://large"))
    limited.open, other.open = 4, 20
    assert nearest([limited, other], "s", 1.25, 24) is other


@pytest.mark.parametrize("choose", [lambda there: nearest(there, "s", 9, 9), lambda there: least_open(there, 1)])
def test_nobody_has_more_than_may_be_open_there(choose):
    there = replicas(2, limit=1)
    choose(there).open += 1
    choose(there).open += 1
    assert [replica.open for replica in there] == [1, 1]
    assert choose(there) is None
    assert choose([]) is None
