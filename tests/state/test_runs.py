"""Runs: held by one process at a time, ended with their response's save, told from a log."""

import asyncio
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from proxy import ids
from proxy.errors import LogFull, RunCancelled, RunLost, StatecarError, TooManyRuns
from proxy.state import End, Lease, Limits, Run
from tests.state.talk import Talk, message, opened

LIMITS = Limits(runs=3, tenant_runs=2, lease=60, log_bytes=100, log_ttl=50)


@pytest.fixture
async def state(store_url):
    async with opened(store_url, limits=LIMITS) as one:
        yield one


@pytest.fixture
def later(monkeypatch):
    """Lets the lease of these runs end, and so much time go by as it has."""
    went = 0.0

    async def later(talk, *runs):
        nonlocal went
        went += LIMITS.lease + 1
        monkeypatch.setattr("proxy.state.runs.time", SimpleNamespace(time=lambda: time.time() + went))
        for run in runs:
            _, lease, _ = talk.state.runs._keys(run.id)
            assert 0 < await talk.state._client.command("PTTL", lease) <= 1000 * LIMITS.lease
            await talk.state._client.command("DEL", lease)

    return later


def a_run(talk, before=None, **rest):
    """A run, and the draft of the response it may become."""
    draft = talk.draft(before)
    request = {"model": "m", "input": [message("q")]}
    return Run(draft.id, talk.tenant, draft.created_at, request, draft.input, **rest), draft


async def made(talk, held=True, **rest):
    run, draft = a_run(talk, **rest)
    lease = Lease(run.id)
    await talk.state.runs.create(run, lease if held else None)
    return run, draft, lease


async def test_a_run_is_kept_as_it_came_and_seen_by_its_tenant_alone(talk):
    run, _, _ = await made(talk, headers="{}", began=True, keyed=True, secrets="sealed")
    assert await talk.state.runs.load(run.id, talk.tenant) == Run(**vars_of(run) | {"claims": 1})
    assert await talk.state.responses.find(run.id, talk.tenant) == await talk.state.runs.load(run.id, talk.tenant)
    for look in (talk.state.runs.load, talk.state.responses.find):
        assert await look(run.id, "another") is None
        assert await look("resp_x", talk.tenant) is None
        assert await look(ids.Minter().own("resp"), talk.tenant) is None
    assert await talk.state.runs.cancel(run.id, "another") is None
    assert await talk.state.runs.claim(run.id, "another", Lease(run.id)) is None


def vars_of(run):
    return {name: getattr(run, name) for name in Run.__dataclass_fields__}


async def test_a_run_is_held_by_one_until_its_lease_ends(talk, later):
    run, _, lease = await made(talk)
    other = Lease(run.id)
    await talk.state.runs.hold(lease, began=True)
    assert await talk.state.runs.claim(run.id, talk.tenant, other) is None
    await later(talk, run)
    taken = await talk.state.runs.claim(run.id, talk.tenant, other)
    assert taken and (taken.claims, taken.began) == (2, True)
    assert (await talk.state.runs.claim(run.id, talk.tenant, other)).claims == 2  # sent again
    runs = talk.state.runs
    for refused in (runs.hold(lease), runs.append(lease, 0, [b"x"]), runs.keep(lease, {"a": 1})):
        with pytest.raises(RunLost):
            await refused


async def test_what_nobody_holds_is_due_at_once_and_what_is_held_after_its_lease(talk, later):
    queued, _, _ = await made(talk, held=False)
    held, _, lease = await made(talk)
    assert await talk.state.runs.due(9) == [(queued.id, talk.tenant)]
    await later(talk, held)
    assert await talk.state.runs.due(9) == [(queued.id, talk.tenant), (held.id, talk.tenant)]
    await talk.state.runs.seen_to([(queued.id, talk.tenant), (held.id, talk.tenant)])
    assert await talk.state.runs.due(9) == []
    assert await talk.state.runs.claim(held.id, talk.tenant, lease)
    await talk.state.runs.release(lease, talk.tenant)
    assert await talk.state.runs.due(9) == [(held.id, talk.tenant)]
    assert await talk.state.runs.claim(held.id, talk.tenant, Lease(held.id))
    await talk.state.runs.ended(held.id, talk.tenant)
    await talk.state.runs.seen_to([(held.id, talk.tenant)])  # comes late: nobody enters it again
    await later(talk)
    assert await talk.state.runs.due(9) == [(queued.id, talk.tenant)]


async def test_there_are_no_more_runs_than_allowed(talk):
    await made(talk)
    await made(talk)
    with pytest.raises(TooManyRuns, match="you have reached"):
        await made(talk)
    third = Talk(talk.state)
    run, _, _ = await made(third)
    with pytest.raises(TooManyRuns, match="this server has"):
        await made(Talk(talk.state))
    await talk.state.runs.ended(run.id, third.tenant)
    await made(Talk(talk.state))


async def test_events_are_read_from_any_number_on(talk):
    run, _, lease = await made(talk)
    await talk.state.runs.append(lease, 0, [b"zero", b"one"])
    await talk.state.runs.append(lease, 2, [b"two"])
    await talk.state.runs.append(lease, 1, [b"one", b"two", b"three"])  # sent again, and more
    assert await talk.state.runs.events(run.id, -1) == [b"zero", b"one", b"two", b"three"]
    assert await talk.state.runs.events(run.id, 2) == [b"three"]
    assert await talk.state.runs.events(run.id, 7) == []
    assert await talk.state.runs.events(run.id, 3, wait=True) == []
    waiting = asyncio.create_task(talk.state.runs.events(run.id, 3, wait=True))
    await asyncio.sleep(0.05)
    await talk.state.runs.append(lease, 4, [b"four"])
    assert await waiting == [b"four"]


async def test_nothing_is_told_behind_events_that_a_failover_lost(talk, later):
    """Else readers would miss them without a word; whoever takes the run up goes on from what is there."""
    run, draft, lease = await made(talk)
    runs, command = talk.state.runs, talk.state._client.command
    *_, log = runs._keys(run.id)
    await runs.append(lease, 0, [b"0", b"1"])
    kept = await command("DUMP", log)
    await runs.append(lease, 2, [b"2"])
    await command("RESTORE", log, 0, kept, "REPLACE")
    draft.end = End(lease, 3, [b"3"])
    for refused in (runs.append(lease, 3, [b"3"]), talk.state.responses.save(draft)):
        with pytest.raises(RunLost):
            await refused
    assert await runs.events(run.id, -1) == [b"0", b"1"]
    await later(talk, run)
    draft.end = End(Lease(run.id), 2, [b"2 again"])
    assert await runs.claim(run.id, talk.tenant, draft.end.lease)
    await talk.state.responses.save(draft)
    assert await runs.events(run.id, -1) == [b"0", b"1", b"2 again"]


async def test_a_log_that_is_full_says_so_and_has_all_the_same(talk):
    run, _, lease = await made(talk)
    await talk.state.runs.append(lease, 0, [b"x" * 60])
    await talk.state.runs.append(lease, 1, [b"y" * 39])
    with pytest.raises(LogFull):
        await talk.state.runs.append(lease, 0, [b"x" * 60, b"y" * 39, b"z", b"z"])
    assert [event[:1] for event in await talk.state.runs.events(run.id, -1)] == [b"x", b"y", b"z", b"z"]


async def test_the_saved_response_takes_the_place_of_its_run(talk):
    run, draft, lease = await made(talk)
    await talk.state.runs.append(lease, 0, [b"zero"])
    draft.end = End(lease, 1, [b"one", b"two"])
    for _ in "sent", "again":
        await talk.state.responses.save(draft)
        assert await talk.state.runs.load(run.id, talk.tenant) is None
        stored = await talk.state.responses.load(run.id, talk.tenant)
        assert stored == await talk.state.responses.find(run.id, talk.tenant)
        assert await talk.state.responses.find(run.id, "another") is None
        assert (stored.status, stored.logged) == ("completed", True)
        assert await talk.read(draft) == "q a"
        assert await talk.state.runs.events(run.id, -1) == [b"zero", b"one", b"two"]
    tag = draft.minter.tag
    assert 0 < await talk.ttl(f"sc:{{{tag}}}:e:{draft.minter.turn}") <= LIMITS.log_ttl
    assert await talk.state._client.command("EXISTS", f"sc:{{{tag}}}:w:{draft.minter.turn}") == 0


async def test_a_response_without_a_log_leaves_none(talk):
    run, draft, lease = await made(talk)
    draft.end = End(lease, 0, [])
    await talk.state.responses.save(draft)
    assert not (await talk.state.responses.load(run.id, talk.tenant)).logged
    assert await talk.state._client.command("EXISTS", f"sc:{{{draft.minter.tag}}}:e:{draft.minter.turn}") == 0


async def test_a_log_that_is_for_nobody_to_read_goes_with_its_run(talk):
    run, draft, lease = await made(talk)
    await talk.state.runs.append(lease, 0, [b"zero"])
    draft.end = End(lease, 1, [])
    await talk.state.responses.save(draft)
    assert not (await talk.state.responses.load(run.id, talk.tenant)).logged
    assert await talk.state.runs.events(run.id, -1) == []


async def test_what_is_kept_beside_a_run_is_found_by_who_takes_it_up(talk, later):
    run, _, lease = await made(talk)
    await talk.state.runs.keep(lease, {"a": {"x": ["\ud800"]}, "b": 1})
    await talk.state.runs.keep(lease, {"b": [2]})
    await later(talk, run)
    taken = await talk.state.runs.claim(run.id, talk.tenant, Lease(run.id))
    assert taken.kept == {"a": {"x": ["\ud800"]}, "b": [2]}


async def test_only_the_holder_ends_a_run(talk):
    _, draft, lease = await made(talk)
    draft.end = End(Lease(draft.id), 0, [b"x"])
    with pytest.raises(RunLost):
        await talk.state.responses.save(draft)
    assert await talk.state.responses.load(draft.id, talk.tenant) is None
    draft.end = End(lease, 0, [b"x"])
    await talk.state.responses.save(draft)


@pytest.mark.parametrize("events", [[b"x"], []], ids=["logged", "plain"])
async def test_who_lost_a_run_learns_it_also_after_another_has_ended_it(talk, later, events):
    run, draft, lease = await made(talk)
    await later(talk, run)
    taken = Lease(run.id)
    assert await talk.state.runs.claim(run.id, talk.tenant, taken)
    draft.end = End(taken, 0, events)
    for _ in "sent", "again":
        await talk.state.responses.save(draft)
    with pytest.raises(RunLost):
        await talk.state.responses.save(replace(draft, status="failed", append=False, end=End(lease, 0, events)))
    assert (await talk.state.responses.load(run.id, talk.tenant)).status == "completed"


@pytest.mark.parametrize("held", [True, False])
async def test_a_cancelled_run_can_only_be_saved_as_that(talk, held):
    run, draft, lease = await made(talk, held=held)
    assert await talk.state.runs.cancel(run.id, talk.tenant) is held
    assert await talk.state.runs.cancel(run.id, talk.tenant) is held
    assert (await talk.state.runs.claim(run.id, talk.tenant, lease)).cancelled
    draft.end = End(lease, 0, [b"x"])
    for refused in (
        talk.state.responses.save(draft),
        talk.state.runs.hold(lease),
        talk.state.runs.append(lease, 0, [b"x"]),
    ):
        with pytest.raises(RunCancelled):
            await refused
    draft.status, draft.append, draft.end = "cancelled", False, End(lease, 1, [b"y"])
    await talk.state.responses.save(draft)
    assert (await talk.state.responses.load(run.id, talk.tenant)).status == "cancelled"
    assert await talk.state.runs.cancel(run.id, talk.tenant) is None


async def test_what_is_dropped_leaves_nothing_unless_another_holds_it(talk, later):
    run, _, lease = await made(talk)
    await talk.state.runs.append(lease, 0, [b"zero"])
    await talk.state.runs.drop(Lease(run.id), talk.tenant)
    assert await talk.state.runs.exists(run.id)
    await later(talk, run)
    assert await talk.state.runs.due(9) == [(run.id, talk.tenant)]
    for _ in "sent", "again":
        await talk.state.runs.drop(lease, talk.tenant)
        assert not await talk.state.runs.exists(run.id)
        assert await talk.state.runs.events(run.id, -1) == []
    assert await talk.state.runs.due(9) == []


async def test_a_run_in_a_conversation_is_appended_once(talk):
    conversation = await talk.conversation("one")
    async with talk.state.conversations.turn(conversation.id, talk.tenant) as past:
        run, draft = a_run(talk, past)
        lease = Lease(run.id)
        await talk.state.runs.create(run, lease)
        draft.end = End(lease, 0, [b"x"])
        await talk.state.responses.save(draft)
        await talk.state.responses.save(draft)
    assert await talk.holds(conversation) == "one q a"
    assert await talk.state.runs.load(run.id, talk.tenant) is None


async def test_a_run_whose_parent_expired_carries_its_context(talk):
    first = await talk.turn()
    past = await talk.state.responses.history(first.id, talk.tenant)
    run, draft = a_run(talk, past)
    lease = Lease(run.id)
    await talk.state.runs.create(run, lease)
    for key in (f"sc:{{{past.tag}}}:l:{past.log}", f"sc:{{{past.tag}}}:m"):
        await talk.state._client.command("DEL", key)
    draft.end = End(lease, 0, [b"x"])
    await talk.state.responses.save(draft)
    assert await talk.read(draft) == "q a q a"


async def test_what_a_run_continues_from_is_read_again_when_the_responses_before_it_are_deleted(talk):
    first = await talk.turn()
    second = await talk.turn(first)
    branch = await talk.turn(first)
    for before, words in ((second, "q a q a"), (branch, "q a q a")):
        past = await talk.state.responses.history(before.id, talk.tenant)
        run, draft = a_run(talk, past, past=past.place)
        lease = Lease(run.id)
        await talk.state.runs.create(run, lease)
        kept = await talk.state.runs.load(run.id, talk.tenant)
        assert await talk.state.responses.delete(before.id, talk.tenant)
        again = await talk.state.responses.past_of_run(kept)
        assert (again.items, again.place) == (past.items, past.place)
        assert await talk.state.responses.past_of_run(replace(kept, tenant="another")) is None
        draft.past, draft.end = again, End(lease, 0, [])
        await talk.state.responses.save(draft)
        assert await talk.read(draft) == f"{words} q a"
        assert await talk.state.responses.past_of_run(kept) is None


@pytest.mark.parametrize("gone", ["erased", "expired"])
async def test_a_context_that_is_not_whole_is_an_error_and_no_shorter_one(talk, gone):
    past = await talk.state.responses.history((await talk.turn()).id, talk.tenant)
    run, _ = a_run(talk, past, past=past.place)
    log = f"sc:{{{past.tag}}}:l:{past.log}"
    if gone == "erased":  # deleted between the reading of the context and the keeping of the run
        await talk.state._client.command("LSET", log, 0, "")
    else:
        await talk.state._client.command("DEL", log)
    await talk.state.runs.create(run, None)
    with pytest.raises(StatecarError, match="deleted before it was made|damaged"):
        await talk.state.responses.past_of_run(run)


async def test_a_run_outlives_responses_that_live_more_briefly_than_it_takes(store_url):
    async with opened(store_url, response_ttl=5, limits=replace(LIMITS, longest=100)) as state:
        talk = Talk(state)
        run, _, lease = await made(talk)
        await state.runs.append(lease, 0, [b"event"])
        minted = ids.parse(run.id)
        for kind in "je":
            assert 90 < await talk.ttl(f"sc:{{{minted.tag}}}:{kind}:{minted.turn}") <= 100


async def test_a_run_that_has_gone_is_not_made_anew_by_whoever_held_it(talk):
    run, draft, lease = await made(talk)
    minted = ids.parse(run.id)
    await talk.state._client.command("DEL", f"sc:{{{minted.tag}}}:j:{minted.turn}")
    draft.end = End(lease, 1, [b"last"])
    for refused in (
        talk.state.runs.append(lease, 0, [b"event"]),
        talk.state.runs.hold(lease, began=True),
        talk.state.responses.save(draft),
    ):
        with pytest.raises(RunLost):
            await refused
    assert not await talk.state.runs.exists(run.id)
