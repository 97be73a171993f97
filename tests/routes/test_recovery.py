"""Runs that another process has left: taken up, ended, lost again, whatever state they are in."""

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import pytest

from proxy import codec, ids
from proxy.errors import StoreUnavailable
from proxy.state import Envelope, Lease, Run, Runs, open_state
from tests.backend import CLOSE, STREAM_HEAD, chunked, sse, talk
from tests.callers import Caller, ok, refusal, unframed
from tests.routes.test_background import HALF, cancelled, events_key, eventually, made, replay, seen, text_of
from tests.translate import rules

OPTIONS = ("--tenant=off", "--run-lease=0.5")
KEY = "--upstream-api-key=k"


@asynccontextmanager
async def at(serve, own, *options, **rest):
    async with Caller(await serve(*OPTIONS, *options, store=own.url, **rest)) as caller:
        yield caller


def left(conversation=None, age=0, tag=None, **fields):
    """A run as another process has left it before it told anything."""
    request = {"model": "m", "input": [], "background": True, "store": True, **fields}
    if conversation:
        request["conversation"], tag = conversation, ids.of_kind(conversation, "conv").tag
    minter = ids.Minter(tag or ids.new_tag())
    part = {"type": "input_text", "text": "Hi"}
    item = {"id": minter.item("message"), "type": "message", "role": "user", "status": "completed", "content": [part]}
    return Run(minter.own("resp"), "shared", int(time.time()) - age, request, [item], headers="[]")


def key(id_, kind):
    return f"sc:{{{id_[5:21]}}}:{kind}:{id_[21:49]}"


def abandon(own, run):
    """The process that makes a run seems to have died."""
    with own.admin() as admin:
        admin.delete(key(run["id"], "w"))
        admin.zadd("sc:runs", dict.fromkeys(admin.zrange("sc:runs", 0, -1), 0))


async def test_what_nobody_makes_is_made_also_beside_what_cannot_be_read(serve, own, state, backend):
    later, broken, plain, streamed = left(), replace(left(), headers="no JSON"), left(), left(stream=True)
    for run in (later, broken, plain, streamed):
        await state.runs.create(run, None)
    with own.admin() as admin:
        admin.hset(key(later.id, "j"), "v", 99)  # of a later version
        async with at(serve, own) as caller:
            for run in (plain, streamed):
                assert text_of(await seen(caller, run.id, "completed", "failed")) == "Hi"
            rules.check(unframed(await replay(caller, streamed.id)))
            assert (await caller.http.get(f"/responses/{later.id}")).status_code == 503
            assert (await seen(caller, broken.id, "failed", "completed"))["status"] == "failed"
            assert admin.exists(key(later.id, "j")) and admin.zcard("sc:runs") == 1


async def test_one_that_is_to_end_needs_no_room(serve, own, state, backend):
    async with at(serve, own, "--worker-runs=1", "--run-lease=90") as caller:
        backend.script(asyncio.Event())
        busy = await made(caller)
        await backend.received(1)
        run = left(stream=True)
        await state.runs.create(run, None)
        last = await cancelled(caller, run.id)
        assert (last["status"], last["output"]) == ("cancelled", [])
        events = unframed(await replay(caller, run.id))
        rules.check(events)
        assert events[-1]["response"] == last
        await cancelled(caller, busy["id"])
    assert len(backend.requests) == 1


async def test_the_time_of_one_that_is_taken_up_began_when_it_was_created(serve, own, state, backend):
    run = left(age=100)
    await state.runs.create(run, None)
    async with at(serve, own, "--background-timeout=50") as caller:
        last = await seen(caller, run.id, "failed", "completed")
        assert "longer than the 50 s" in last["error"]["message"]
    assert not backend.requests


async def test_one_whose_past_has_gone_fails(serve, own, state, backend):
    async with at(serve, own) as caller:
        first = await caller.create()
        conversation = await caller.conversation()
        runs = [left(previous_response_id=first["id"], tag=ids.parse(first["id"]).tag), left(conversation)]
        await caller.http.delete(f"/responses/{first['id']}")
        await caller.http.delete(f"/conversations/{conversation}")
        for run in runs:
            await state.runs.create(run, None)
        for run in runs:
            last = await seen(caller, run.id, "failed", "completed")
            assert (last["status"], last["output"]) == ("failed", [])
            assert "not found" in last["error"]["message"]


async def test_one_whose_past_is_deleted_is_made_again_from_all_of_it(serve, own, state, backend):
    async with at(serve, own, KEY, "--run-lease=90") as caller, at(serve, own, KEY) as other:
        first = await caller.create("One")
        backend.script(asyncio.Event())
        run = await made(caller, "Two", previous_response_id=first["id"])
        await backend.received(2)
        await caller.http.delete(f"/responses/{first['id']}")
        abandon(own, run)
        assert (await seen(other, run["id"], "failed", "completed"))["status"] == "completed"
        assert backend.requests[-1].json == backend.requests[1].json
        rows = (await other.get(f"/responses/{run['id']}/input_items", order="asc"))["data"]
        assert [row["content"][0]["text"] for row in rows] == ["One", "Hi", "Two"]


async def test_one_in_a_conversation_waits_for_the_turn_that_is_in_it(serve, own, state, backend):
    async with at(serve, own) as caller:
        conversation, go = await caller.conversation(), asyncio.Event()
        backend.script(go, STREAM_HEAD + chunked(sse(*talk("First"))))
        turn = asyncio.create_task(caller.create("One", conversation=conversation))
        await backend.received(1)
        run = left(conversation)
        await state.runs.create(run, None)
        await asyncio.sleep(1)
        assert len(backend.requests) == 1
        stuck = left(conversation)
        await state.runs.create(stuck, None)
        assert (await cancelled(caller, stuck.id))["conversation"] == {"id": conversation}
        go.set()
        await turn
        last = await seen(caller, run.id, "completed", "failed")
        assert (last["status"], last["conversation"]) == ("completed", {"id": conversation})
        assert await caller.texts(conversation) == ["One", "First", "Hi", "Hi"]


async def test_a_process_that_has_lost_a_run_leaves_it_alone_and_its_readers_see_one_stream(serve, own, state, backend):
    async with at(serve, own) as caller:
        backend.script(HALF, asyncio.Event())
        async with caller.opened("Hi", background=True) as opened:
            events = [await opened.frame()]
            while events[-1]["type"] != "response.output_text.delta":
                events.append(await opened.frame())
            id_ = events[0]["response"]["id"]
            thief, turn = Lease(id_), ids.parse(id_)
            with own.admin() as admin:
                admin.delete(f"sc:{{{turn.tag}}}:w:{turn.turn}")
                assert (await state.runs.claim(id_, "shared", thief)).claims == 2
            await backend.requests[-1].gone.wait()
            assert (await caller.get(f"/responses/{id_}"))["status"] == "in_progress"
            await state.runs.release(thief, "shared")
            events += (await opened.rest())[:-1]
    rules.check(events)
    last = events[-1]["response"]
    assert (last["status"], text_of(last)) == ("failed", "Hel")


async def test_the_stream_of_one_that_the_store_has_lost_has_no_end(serve, own, state, backend):
    """Neither a terminal event, which would be a lie, nor the mark of an end that all is told."""
    async with at(serve, own) as caller:
        backend.script(HALF, asyncio.Event())
        body = {"model": "m", "input": "Hi", "background": True, "stream": True}
        told = b""
        with pytest.raises(httpx.RemoteProtocolError):
            async with caller.http.stream("POST", "/responses", json=body) as answer:
                async for piece in answer.aiter_raw():
                    told += piece
                    if b"output_text.delta" in piece:
                        with own.admin() as admin:
                            admin.flushall()
        assert b"[DONE]" not in told and b"response.failed" not in told


async def test_what_a_run_was_asked_is_kept_once_and_asked_again_whole(serve, own, state, backend):
    """Its own tools among it, and that it asks for a summary and nothing else."""
    tool = {"type": "additional_tools", "role": "developer", "tools": [{"type": "function", "name": "f"}]}
    asked = [tool, {"role": "user", "content": "x" * 5000}]
    async with at(serve, own, KEY, "--run-lease=90") as caller, at(serve, own, KEY) as other:
        for number, input_ in enumerate((asked, [*asked, {"type": "compaction_trigger"}]), 1):
            backend.script(asyncio.Event())
            run = await made(caller, input_)
            first = await backend.received(2 * number - 1)
            with own.admin() as admin:
                fields = admin.hgetall(key(run["id"], "j"))
                assert sum(map(len, fields.values())) < 7000
            abandon(own, run)
            assert (await seen(other, run["id"], "completed", "failed"))["status"] == "completed"
            assert len(backend.requests) == 2 * number and backend.requests[-1].json == first.json


async def test_what_is_refused_for_a_store_that_did_not_answer_is_made_by_nobody(serve, own, backend, monkeypatch):
    create = Runs.create

    async def unanswered(self, run, lease):
        await create(self, run, lease)
        raise StoreUnavailable

    monkeypatch.setattr(Runs, "create", unanswered)
    async with at(serve, own, KEY) as caller:
        assert refusal(await caller.ask(background=True)) == (503, "store_unavailable", None)
        with own.admin() as admin:
            await eventually(lambda: asyncio.sleep(0, not admin.zcard("sc:runs")))
            assert not admin.keys("sc:*:j:*")
    assert not backend.requests


async def test_a_plain_detached_turn_that_is_taken_over_in_mid_answer_is_answered_as_it_ends(
    serve, own, state, backend
):
    async with at(serve, own, KEY, "--on-disconnect=detach") as caller:
        backend.script(HALF, asyncio.Event())
        waiting = asyncio.create_task(caller.ask())
        run = {"id": await eventually(lambda: begun(caller, own))}
        abandon(own, run)
        with own.admin() as admin:
            admin.delete(key(run["id"], "w"))
            thief = Lease(run["id"])
            assert await state.runs.claim(run["id"], "shared", thief)
        await backend.requests[0].gone.wait()
        await state.runs.release(thief, "shared")
        last = ok(await waiting)
        assert (last["id"], last["status"], text_of(last)) == (run["id"], "completed", "Hi")


async def begun(caller, own):
    """The id of the only run, once its upstream has said something."""
    with own.admin() as admin:
        found = [f"resp_{member[:22].hex()}0000" for member in admin.zrange("sc:runs", 0, -1)]
        return found[0] if found and admin.hexists(key(found[0], "j"), "b") else None


@pytest.mark.parametrize("background", [True, False], ids=["background", "detached"])
async def test_one_whose_tools_are_refused_where_it_is_taken_up_fails(serve, own, state, backend, background):
    run = left(stream=True, background=background, tools=[{"type": "web_search"}])
    await state.runs.create(run, None)
    async with at(serve, own, "--unsupported-tools=reject") as caller:
        last = await seen(caller, run.id, "failed", "completed")
        assert (last["status"], last["output"]) == ("failed", [])
        assert "web_search" in last["error"]["message"]
        rules.check(unframed(await replay(caller, run.id)))
    assert not backend.requests


async def test_one_in_a_conversation_sees_what_it_saw_when_it_is_made_again(serve, own, state, backend):
    async with at(serve, own, KEY, "--run-lease=90") as caller, at(serve, own, KEY) as other:
        conversation = await caller.conversation(items=[{"role": "user", "content": t} for t in ("One", "Gone")])
        page = await caller.get(f"/conversations/{conversation}/items", order="asc")
        backend.script(asyncio.Event())
        run = await made(caller, "Two", conversation=conversation)
        await backend.received(1)
        await caller.http.delete(f"/conversations/{conversation}/items/{page['data'][1]['id']}")
        added = {"items": [{"role": "user", "content": "Added"}]}
        ok(await caller.http.post(f"/conversations/{conversation}/items", json=added))
        rows = (await other.get(f"/responses/{run['id']}/input_items", order="asc"))["data"]
        abandon(own, run)
        assert (await seen(other, run["id"], "failed", "completed"))["status"] == "completed"
        assert backend.requests[-1].json == backend.requests[0].json
        again = (await other.get(f"/responses/{run['id']}/input_items", order="asc"))["data"]
        assert rows == again
        assert [row["content"][0]["text"] for row in rows] == ["One", "Gone", "Two"]
        assert await other.texts(conversation) == ["One", "Added", "Two", "Hi"]


async def test_one_whose_conversation_is_deleted_is_made_again_and_appended_nowhere(serve, own, state, backend):
    async with at(serve, own, KEY, "--run-lease=90") as caller, at(serve, own, KEY) as other:
        conversation = await caller.conversation(items=[{"role": "user", "content": "One"}])
        backend.script(asyncio.Event())
        run = await made(caller, "Two", conversation=conversation)
        await backend.received(1)
        await caller.http.delete(f"/conversations/{conversation}")
        abandon(own, run)
        last = await seen(other, run["id"], "failed", "completed")
        assert (last["status"], last["conversation"]) == ("completed", {"id": conversation})
        assert backend.requests[-1].json == backend.requests[0].json
        assert (await other.http.get(f"/conversations/{conversation}")).status_code == 404
        rows = (await other.get(f"/responses/{run['id']}/input_items", order="asc"))["data"]
        assert [row["content"][0]["text"] for row in rows] == ["One", "Two"]


async def failing(caller, own, backend, go):
    """A plain detached turn in a conversation whose upstream says nothing and then breaks off: (its answer, its id)."""
    conversation = await caller.conversation()
    backend.script(STREAM_HEAD + chunked(sse(talk("")[0])), go, CLOSE)
    waiting = asyncio.create_task(caller.ask(conversation=conversation))
    return waiting, await eventually(lambda: begun(caller, own)), conversation


async def test_what_fails_where_the_run_was_lost_neither_ends_it_nor_frees_its_conversation(serve, own, state, backend):
    options = KEY, "--on-disconnect=detach"
    async with at(serve, own, *options, "--run-lease=90") as caller:
        go = asyncio.Event()
        waiting, id_, conversation = await failing(caller, own, backend, go)
        thief = Lease(id_)
        with own.admin() as admin:
            admin.delete(key(id_, "w"))
            assert await state.runs.claim(id_, "shared", thief)
            go.set()
            await backend.requests[0].gone.wait()
            await asyncio.sleep(0.1)
            assert admin.exists(f"sc:{{{id_[5:21]}}}:k")
        async with at(serve, own, *options):
            await state.runs.release(thief, "shared")
            last = ok(await waiting)
        assert (last["id"], text_of(last)) == (id_, "Hi")
        assert await caller.texts(conversation) == ["Hi", "Hi"]


async def test_a_cancel_comes_before_a_failure_that_would_leave_nothing(serve, own, state, backend):
    async with at(serve, own, KEY, "--on-disconnect=detach", "--run-lease=90") as caller:
        go = asyncio.Event()
        waiting, id_, _ = await failing(caller, own, backend, go)
        await state.runs.cancel(id_, "shared")
        go.set()
        assert (ok(await waiting)["id"], ok(await waiting)["status"]) == (id_, "cancelled")
        assert await cancelled(caller, id_) == ok(await waiting)


async def test_a_store_that_is_away_just_after_a_claim_costs_no_takeover(serve, own, state, backend, monkeypatch):
    seen_to, failures = Runs.seen_to, iter((StoreUnavailable(),))

    async def failing_once(self, runs):
        if runs and (failure := next(failures, None)):
            raise failure
        await seen_to(self, runs)

    monkeypatch.setattr(Runs, "seen_to", failing_once)
    run = left(stream=True)
    await state.runs.create(run, None)
    async with at(serve, own, "--run-lease=90") as caller:
        assert text_of(await seen(caller, run.id, "completed", "failed")) == "Hi"


async def test_what_was_told_and_is_damaged_does_not_keep_one_for_ever(serve, own, state, backend):
    third, stopped = runs = left(stream=True), left(stream=True)
    with own.admin() as admin:
        for run in runs:
            await state.runs.create(run, None)
            admin.xadd(events_key(run.id), {"e": b"damaged"}, id="0-1")
        admin.hset(key(third.id, "j"), "n", 3)
        await state.runs.cancel(stopped.id, "shared")
        async with at(serve, own, "--run-lease=90") as caller:
            for run, status in ((third, "failed"), (stopped, "cancelled")):
                await eventually(lambda run=run: asyncio.sleep(0, not admin.exists(key(run.id, "j"))))
                assert (await caller.get(f"/responses/{run.id}"))["status"] == status
            await eventually(lambda: asyncio.sleep(0, not admin.zcard("sc:runs")))
    assert not backend.requests


def at_rest(own, *keys_):
    return open_state(own.url, response_ttl=60, conversation_ttl=60, envelope=Envelope(keys_))


async def test_whoever_lacks_the_key_of_what_was_told_leaves_it_untouched_and_says_so_once(
    serve, own, backend, monkeypatch, caplog
):
    (fields, events), run = ("a" * 16, "b" * 16), left(stream=True)
    told = {"type": "response.created", "sequence_number": 0, "response": {"status": "queued"}}
    for text, work in (
        (fields, lambda runs: runs.create(run, Lease(run.id, "gone"))),
        (
            events,
            lambda runs: runs.append(Lease(run.id, "gone"), 0, [b"event: x\ndata: " + codec.dumps(told) + b"\n\n"]),
        ),
    ):
        state = at_rest(own, text)
        await work(state.runs)
        await state.close()
    release, released = Runs.release, []

    async def counted(self, lease, tenant):
        await release(self, lease, tenant)
        with own.admin() as admin:
            released.append(admin.hget(key(lease.run, "j"), "n"))

    monkeypatch.setattr(Runs, "release", counted)
    abandon(own, {"id": run.id})
    async with at(serve, own, f"--encryption-key={fields}"):
        await eventually(lambda: asyncio.sleep(0, len(released) > 3))
        assert set(released) == {b"1"}
        assert caplog.text.count(f"response {run.id} cannot be taken up") == 1
        assert caplog.text.count("stored content was sealed with a key") == 1
        async with at(serve, own, f"--encryption-key={fields}", f"--encryption-key={events}") as caller:
            with own.admin() as admin:
                await eventually(lambda: asyncio.sleep(0, not admin.exists(key(run.id, "j"))))
            assert text_of(await caller.get(f"/responses/{run.id}")) == "Hi"
