"""What the outcomes of calls make of replicas: retries, pauses, ejection, trials; by a clock of the test's own."""

import asyncio
import logging
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest

from proxy.errors import (
    OVERFLOW,
    InvalidRequest,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamUnreachable,
)
from proxy.upstream.group import Group, Rules
from proxy.upstream.replica import Replica, seconds_asked

AWAY = UpstreamUnreachable("nobody there")
SLOW = UpstreamTimeout("too late")
TOO_LONG = UpstreamError("Context size has been exceeded.", status=500, code=OVERFLOW)
HOUR = 3600.0


def status(code, **headers):
    return UpstreamError("no", status=code, headers={name.replace("_", "-"): value for name, value in headers.items()})


class Server:
    """What a replica knows of its upstream. ``answers``: what it does, an error or a text, the last for ever."""

    has_key = False

    def __init__(self, number):
        self.base_url, self.name = f"http://vllm-{number}/v1", f"vllm-{number}"
        self.answers, self.health, self.asked = ["Hi"], None, 0

    @asynccontextmanager
    async def open(self):
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        yield answer

    async def check(self, path):
        return self.health


class Fleet:
    """A group and its servers. ``time``: what its clock says; ``told``: what it has told."""

    def __init__(self, count=3, *, limit=0, fallbacks=False, after=3, **rules):
        self.time, self.told = 1000.0, []
        rules.setdefault("interval", 0.0)
        self.servers = [Server(number) for number in range(count)]
        self.group = Group(
            "g",
            [Replica(server, limit=limit, after=after, seconds=10.0) for server in self.servers],
            Rules(**rules),
            has_fallbacks=fallbacks,
            told=lambda *what: self.told.append(what),
            now=lambda: self.time,
        )

    def first(self, session="s"):
        """The server that a session goes to."""
        return next(server for server in self.servers if server.name == self.group.choose(session).name)

    @asynccontextmanager
    async def calling(self, session="s", failure=None, **options):
        names = []

        async def begun(_):
            return failure

        async with self.group.call(session, Server.open, begun, names.append, **options):
            yield names

    async def call(self, session="s", **options):
        """The names of those that were asked, the last of which answered."""
        async with self.calling(session, **options) as names:
            return names

    async def fail(self, times, session="s"):
        for _ in range(times):
            with pytest.raises(UpstreamError):
                await self.call(session)

    @property
    def out(self):
        return [replica.name for replica in self.group.replicas if replica.is_out]


@pytest.mark.parametrize("failure", [AWAY, SLOW, UpstreamError("broken"), *map(status, (429, 502, 503, 504))])
async def test_what_one_cannot_another_is_asked_for(failure):
    fleet = Fleet()
    first = fleet.first()
    first.answers = [failure]
    assert len(asked := await fleet.call()) == 2
    assert asked[0] == first.name
    assert fleet.told == [("retry", "g", first.name)]


@pytest.mark.parametrize("failure", [*map(status, (400, 401, 404, 413, 500)), InvalidRequest("no")])
async def test_what_would_fail_everywhere_is_asked_once(failure):
    fleet = Fleet()
    fleet.first().answers = [failure]
    with pytest.raises(type(failure)) as told:
        await fleet.call()
    assert told.value is failure
    assert sum(server.asked for server in fleet.servers) == 1


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (AWAY, "nobody there"),
        (SLOW, "too late"),
        (UpstreamError("WORDS of theirs", status=503), "status 503"),
        (UpstreamError("WORDS of theirs", status=500), "status 500"),
    ],
)
async def test_the_log_says_what_failed_and_nothing_that_an_upstream_says(failure, said, caplog):
    caplog.set_level(logging.INFO, "proxy.upstream.group")
    fleet = Fleet(2, after=1, retries=1)
    for server in fleet.servers:
        server.answers = [failure]
    await fleet.fail(2)
    assert "is ejected: " in caplog.text and "WORDS" not in caplog.text
    assert all(record.message.endswith(f": {said}") for record in caplog.records)
    assert ("is asked instead of" in caplog.text) == (failure.status != 500)


async def test_no_more_are_asked_than_is_allowed():
    fleet = Fleet(5, retries=2)
    for server in fleet.servers:
        server.answers = [AWAY]
    await fleet.fail(1)
    assert sorted(server.asked for server in fleet.servers) == [0, 0, 1, 1, 1]


async def test_a_body_that_cannot_be_sent_twice_is_sent_once():
    fleet = Fleet()
    fleet.first().answers = [SLOW, AWAY]
    with pytest.raises(UpstreamTimeout):
        await fleet.call(again=False)
    assert len(await fleet.call(again=False)) == 2  # of an unreachable one nothing was sent


async def test_retries_have_a_budget_of_ten_and_a_fifth_of_the_calls():
    fleet = Fleet(2, retries=1, after=HOUR)
    for server in fleet.servers:
        server.answers = [AWAY]
    await fleet.fail(50)
    assert sum(server.asked for server in fleet.servers) == 50 + 20
    fleet.time += 10.0
    await fleet.fail(1)
    assert sum(server.asked for server in fleet.servers) == 50 + 20 + 2


async def test_failures_in_a_row_eject_and_one_call_in_time_brings_back():
    fleet = Fleet()
    first = fleet.first()
    first.answers = [AWAY, AWAY, "Hi", AWAY, AWAY, SLOW, "Hi"]
    for _ in range(5):
        await fleet.call()
    assert not fleet.out
    await fleet.call()
    assert fleet.out == [first.name]
    assert ("ejected", "g", first.name) in fleet.told
    asked = first.asked
    fleet.time += 9.9
    assert first.name not in await fleet.call()
    assert first.asked == asked
    fleet.time += 0.2
    assert await fleet.call() == [first.name]
    assert not fleet.out
    assert fleet.told[-1] == ("returned", "g", first.name)


async def test_one_that_goes_on_failing_is_left_alone_twice_as_long_each_time():
    fleet = Fleet()
    first, waits = fleet.first(), []
    first.answers = [AWAY]
    for _ in range(3):
        await fleet.call()
    replica = next(replica for replica in fleet.group.replicas if replica.name == first.name)
    for _ in range(7):
        waits.append(replica.closed_until - fleet.time)
        fleet.time = replica.closed_until
        await fleet.call()
    assert waits == [10, 20, 40, 80, 160, 160, 160]
    assert [what for what, *_ in fleet.told].count("ejected") == 1


async def test_one_whose_answers_go_on_breaking_off_is_left_alone_twice_as_long_each_time():
    fleet, waits = Fleet(), []
    (replica,) = [each for each in fleet.group.replicas if each.name == fleet.first().name]

    async def answer():
        with suppress(UpstreamError):
            async with fleet.calling() as asked:
                assert asked == [replica.name]
                raise UpstreamError("broken")

    for _ in range(3):
        await answer()
    for _ in range(3):
        assert replica.is_out
        waits.append(replica.closed_until - fleet.time)
        fleet.time = replica.closed_until
        await answer()  # begins well, so that it is back
    assert waits == [10, 20, 40]
    fleet.time = replica.closed_until
    assert await fleet.call(whole=lambda _: True) == [replica.name]
    for _ in range(3):
        assert not replica.is_out
        await answer()
    assert replica.closed_until == fleet.time + 10


async def test_what_began_before_a_replica_was_out_says_nothing_once_it_is_back():
    fleet = Fleet(after=1)
    first = fleet.first()
    (replica,) = [each for each in fleet.group.replicas if each.name == first.name]
    async with fleet.calling(whole=lambda _: True):
        with pytest.raises(UpstreamError, match="broken"):
            async with fleet.calling():
                first.answers = [AWAY, "Hi"]
                await fleet.call()
                fleet.time += 10
                assert await fleet.call() == [first.name]
                raise UpstreamError("broken")
        assert not fleet.out
        with pytest.raises(UpstreamError, match="broken"):
            async with fleet.calling():
                raise UpstreamError("broken")
        assert fleet.out == [first.name]
        fleet.time += 10
        assert await fleet.call() == [first.name]
    with pytest.raises(UpstreamError, match="broken"):
        async with fleet.calling():
            raise UpstreamError("broken")
    assert replica.closed_until == fleet.time + 20  # the whole answer was of the time before


async def test_answers_that_are_cut_together_are_one_failure():
    fleet = Fleet(after=2)
    name = fleet.first().name
    cut = AsyncExitStack()
    with pytest.raises(UpstreamError, match="the network"):
        async with cut:
            for _ in range(5):
                cut.push_async_exit(each := fleet.calling())
                assert await each.__aenter__() == [name]
            raise UpstreamError("the network")
    assert not fleet.out
    with pytest.raises(UpstreamError, match="once more"):
        async with fleet.calling():
            raise UpstreamError("once more")
    assert fleet.out == [name]


@pytest.mark.parametrize("error", [*map(status, (400, 404, 429, 501)), TOO_LONG])
async def test_what_is_no_failure_is_none_within_an_answer_either(error):
    fleet = Fleet(after=1)
    with pytest.raises(UpstreamError):
        async with fleet.calling():
            raise error
    assert not fleet.out


async def test_a_refusal_that_comes_whole_is_no_whole_answer():
    fleet = Fleet(after=3)
    for failure in (None, None, status(501), None):
        with suppress(UpstreamError):
            async with fleet.calling(failure=failure, whole=lambda _: True):
                if not failure:
                    raise UpstreamError("broken")
    assert len(fleet.out) == 1


async def test_one_call_alone_tries_whether_it_is_well_again():
    fleet = Fleet()
    first = fleet.first()
    first.answers = [AWAY]
    for _ in range(3):
        await fleet.call()
    fleet.time += 10
    first.answers = ["Hi"]
    gate, asked = asyncio.Event(), []

    async def begun(_):
        asked.append(len(asked))
        if len(asked) == 1:
            await gate.wait()

    async def call():
        names = []
        async with fleet.group.call("s", Server.open, begun, names.append):
            return names

    trial = asyncio.create_task(call())
    await asyncio.sleep(0)
    assert first.name not in await call()
    gate.set()
    assert await trial == [first.name]
    assert await call() == [first.name]


async def test_a_call_that_was_begun_before_others_failed_brings_nobody_back():
    fleet = Fleet()
    first, failed = fleet.first(), []

    async def begun(_):
        if not failed:
            failed.append(True)
            first.answers = [AWAY]
            for _ in range(3):
                await fleet.call()
            assert fleet.out == [first.name]

    async with fleet.group.call("s", Server.open, begun, bool):
        assert fleet.out == [first.name]


async def test_a_trial_that_tells_nothing_leaves_it_to_the_next():
    fleet = Fleet()
    first = fleet.first()
    first.answers = [AWAY, AWAY, AWAY, asyncio.CancelledError(), "Hi"]
    for _ in range(3):
        await fleet.call()
    fleet.time += 10
    with pytest.raises(asyncio.CancelledError):
        await fleet.call()
    assert fleet.out == [first.name]
    assert await fleet.call() == [first.name]


async def test_a_trial_that_takes_long_keeps_the_next_waiting_for_as_long_as_one_is_out():
    fleet = Fleet(2, retries=0)
    gate, asked = asyncio.Event(), []

    async def begun(_):
        asked.append(True)
        await gate.wait()

    async def call():
        async with fleet.group.call("s", Server.open, begun, bool):
            return True

    await all_out(fleet)
    for server in fleet.servers:
        server.answers = ["Hi"]
    slow = asyncio.create_task(call())
    await asyncio.sleep(0)
    with pytest.raises(UpstreamUnavailable) as told:
        await call()
    assert told.value.headers == {"retry-after": "10"}
    fleet.time += 10
    other = asyncio.create_task(call())
    await asyncio.sleep(0)
    assert len(asked) == 2
    gate.set()
    assert await slow and await other


async def test_a_trial_that_has_succeeded_says_nothing_when_its_answer_ends():
    fleet = Fleet(2, retries=0)
    await all_out(fleet)
    fleet.first().answers = ["Hi"]
    async with fleet.calling():  # goes on, while its replica fails once more
        await all_out(fleet)
        replica = next(replica for replica in fleet.group.replicas if replica.open)
        replica.begin_trial(fleet.time)
    assert replica.trial_ends == fleet.time + 10
    with pytest.raises(UpstreamUnavailable):
        await fleet.call()


async def test_who_is_tried_before_its_time_as_all_are_out_is_not_left_alone_for_longer():
    fleet = Fleet(4, retries=0)
    await all_out(fleet)
    for _ in range(100):
        fleet.time += 0.01
        await fleet.fail(1)
    assert max(replica.again_at for replica in fleet.group.replicas) == fleet.time + 10
    assert min(server.asked for server in fleet.servers) > 20


async def test_where_all_are_out_all_are_tried_in_turn_however_long_each_has_been():
    fleet = Fleet(2, retries=0)
    long, short = fleet.group.replicas
    for number in range(8):
        long.failed(AWAY, fleet.time, trial=number > 3, others=lambda: True)
        fleet.time = long.again_at
    long.failed(AWAY, fleet.time, trial=True, others=lambda: True)
    for _ in range(3):
        fleet.time += 1
        short.failed(AWAY, fleet.time, trial=False, others=lambda: True)
    assert long.again_at > short.again_at
    fleet.servers[1].answers = [AWAY]
    assert await fleet.call() == ["vllm-0"]


async def test_what_asks_no_model_shows_no_replica_to_be_well():
    """A server may list its models while nothing comes of its engine."""
    fleet = Fleet()
    first = fleet.first()
    first.answers = [SLOW, "list", SLOW, "list", SLOW, "list", "list"]
    for _ in range(2):
        await fleet.call()
        assert await fleet.call(proves=False) == [first.name]
    await fleet.call()
    assert fleet.out == [first.name]
    fleet.time += 10
    assert await fleet.call(proves=False) == [first.name]
    assert fleet.out == [first.name]
    assert await fleet.call() == [first.name]
    assert not fleet.out


@pytest.mark.parametrize("error", [*map(status, (400, 404, 429, 501, 505)), TOO_LONG])
async def test_what_is_no_failure_ejects_nobody(error):
    fleet = Fleet(2, after=1, retries=0)
    fleet.first().answers = [error]
    await fleet.fail(5)
    assert not fleet.out


async def all_out(fleet):
    """Every replica of a fleet fails until it is out."""
    for server in fleet.servers:
        server.answers = [AWAY]
    for _ in range(100):
        with pytest.raises(UpstreamError):
            await fleet.call("")
        if len(fleet.out) == len(fleet.servers):
            return
    raise AssertionError("some are never ejected")


async def test_a_request_that_kills_does_not_take_the_whole_group_out():
    fleet = Fleet()
    for server in fleet.servers:
        server.answers = [status(500)]
    await fleet.fail(30)
    assert len(fleet.out) == 2


async def test_nor_does_it_keep_the_group_out_when_it_is_a_trial():
    fleet = Fleet(2, retries=0)
    await all_out(fleet)
    for server in fleet.servers:
        server.answers = [status(500)]
    await fleet.fail(5)
    assert len(fleet.out) == 1


@pytest.mark.parametrize("told", ["7", "Sun, 06 Nov 1994 08:49:37 GMT", "soon", "-3", ""])
async def test_who_asks_for_a_pause_gets_it_while_others_are_there(told):
    fleet = Fleet()
    first = fleet.first()
    first.answers = [status(429, retry_after=told), "Hi"]
    await fleet.call()
    paused = told == "7"
    assert (first.name in await fleet.call()) != paused
    fleet.time += 7
    assert await fleet.call() == [first.name]
    assert not fleet.out


async def test_where_all_have_asked_for_a_pause_they_are_asked_all_the_same():
    fleet = Fleet(2)
    for server in fleet.servers:
        server.answers = [status(429, retry_after="30")]
    await fleet.fail(5)
    assert sum(server.asked for server in fleet.servers) > 5
    assert not fleet.out


def test_a_pause_ends_after_a_minute():
    assert seconds_asked({"retry-after": "86400"}) == 60
    assert seconds_asked({"retry-after": "Fri, 31 Dec 2199 23:59:59 GMT"}) == 60


async def test_where_all_are_out_one_call_at_a_time_tries_and_all_others_are_refused():
    fleet = Fleet(2, retries=0)
    for server in fleet.servers:
        server.answers = [AWAY]
    sessions = {fleet.first(session).name: session for session in map(str, range(20))}
    for session in sessions.values():
        await fleet.fail(3, session)
    assert len(fleet.out) == 2
    fleet.time += 3.5
    refused = []

    async def begin_another():
        with pytest.raises(UpstreamUnavailable) as told:
            await fleet.call()
        refused.append(told.value)

    async def begun(_):
        await begin_another()

    for server in fleet.servers:
        server.answers = ["Hi"]
    async with fleet.group.call("s", Server.open, begun, bool):
        pass
    assert refused[0].status == 503
    assert refused[0].code == "upstream_unavailable"
    assert refused[0].headers == {"retry-after": "7"}  # 10 less 3.5, rounded up
    assert len(fleet.out) == 1
    assert await fleet.call()


async def test_a_group_with_another_behind_it_gives_up_at_once():
    fleet = Fleet(1, fallbacks=True)
    fleet.servers[0].answers = [AWAY]
    await fleet.fail(3)
    asked = fleet.servers[0].asked
    with pytest.raises(UpstreamUnavailable):
        await fleet.call()
    assert fleet.servers[0].asked == asked


async def test_a_replica_alone_is_never_ejected():
    fleet = Fleet(1)
    fleet.servers[0].answers = [AWAY]
    await fleet.fail(10)
    assert fleet.servers[0].asked == 10
    assert not fleet.out


async def test_no_more_calls_are_open_than_may_be():
    fleet = Fleet(2, limit=1, affinity=False)
    async with fleet.calling() as one, fleet.calling() as other:
        assert {*one, *other} == {"vllm-0", "vllm-1"}
        with pytest.raises(UpstreamUnavailable) as told:
            await fleet.call()
        assert told.value.headers == {"retry-after": "1"}
    assert await fleet.call()
    assert fleet.group.open == 0


async def test_health_checks_eject_and_bring_back_on_probation():
    fleet = Fleet(2, interval=0.001)
    first = fleet.first()
    replica = next(replica for replica in fleet.group.replicas if replica.name == first.name)
    first.health = "down"
    watching = asyncio.create_task(fleet.group.watch())
    try:
        await until(lambda: replica.is_out)
        fleet.time += 10
        await until(lambda: replica.again_at > fleet.time)  # still down: no longer, as it may come up at any time
        assert replica.again_at == fleet.time + 10
        first.health = None
        fleet.time += 10
        await until(lambda: not replica.is_out)
    finally:
        watching.cancel()
    first.answers = [AWAY]
    await fleet.call()
    assert replica.is_out  # one failure was enough
    assert replica.again_at == fleet.time + 20
    assert [what for what, *_ in fleet.told] == ["ejected", "returned", "ejected", "retry"]
    asked = first.asked
    fleet.time += 1000
    await fleet.call()
    assert first.asked == asked  # its turn only when a check is well


@pytest.mark.parametrize("fallbacks", [False, True])
async def test_checks_alone_put_the_last_one_out_only_where_another_group_can_be_asked(fallbacks):
    """All may be too busy to answer checks in time, and yet answer."""
    fleet = Fleet(3, interval=0.001, fallbacks=fallbacks)
    checks = Counter()

    async def check(server):
        checks[server.name] += 1
        return "busy"

    for server in fleet.servers:
        server.check = lambda _, server=server: check(server)
    watching = asyncio.create_task(fleet.group.watch())
    try:
        await until(lambda: max(checks.values(), default=0) > 3 + 3 * (not fallbacks) or len(fleet.out) == 3)
    finally:
        watching.cancel()
    assert len(fleet.out) == 2 + fallbacks
    if not fallbacks:
        (answered,) = await fleet.call()
        assert answered not in fleet.out


async def until(true):
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 (a check has no event)
            await asyncio.sleep(0.001)


async def test_a_check_that_is_well_forgives_no_calls():
    """A server may list its models while nothing comes of its engine."""
    fleet = Fleet(2)
    replica = fleet.group.replicas[0]
    for _ in range(3):
        assert replica.failed(SLOW, fleet.time, trial=False, others=lambda: True) == ("ejected" if _ == 2 else "")
        assert replica.is_out or replica.checked(None, fleet.time, others=bool) == ""


async def test_ready_is_a_group_of_which_one_is_well():
    fleet = Fleet(2, interval=5.0)
    fleet.servers[0].health = "down"
    assert await fleet.group.check() is None  # asked, as nothing is known yet
    fleet.servers[1].health = "also down"
    assert await fleet.group.check() == "down"
    for replica, server in zip(fleet.group.replicas, fleet.servers, strict=True):
        replica.checked(server.health, fleet.time, others=bool)
    fleet.servers[1].health = None
    assert await fleet.group.check() == "down"  # as the last checks have it
    fleet.group.replicas[1].checked(None, fleet.time, others=bool)
    assert await fleet.group.check() is None


async def test_the_share_of_a_session_is_bounded_while_its_calls_are_open():
    fleet = Fleet(4, load_factor=1.25)
    async with asyncio.timeout(10):
        opened = [fleet.calling("one") for _ in range(40)]
        for each in opened:
            await each.__aenter__()
        assert sorted(replica.open for replica in fleet.group.replicas)[-1] <= 13
        assert fleet.group.open == 40
        for each in opened:
            await each.__aexit__(None, None, None)
    assert fleet.group.open == 0
