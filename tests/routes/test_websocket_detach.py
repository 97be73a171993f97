"""Turns over a WebSocket that go on when its client leaves (wire §3.1, §13.2)."""

import asyncio
import json
import signal

import pytest
from websockets.exceptions import InvalidStatus

from tests.backend import CLOSE, PATIENCE, STREAM_END, STREAM_HEAD, chunk, chunked, json_reply, sse, stream, talk
from tests.callers import frames
from tests.golden.test_golden import renamed
from tests.routes.test_background import ENDED, apart, replay, seen, text_of
from tests.sockets import TERMINAL, opened
from tests.translate import rules

__all__ = ["apart"]  # a fixture for every test here

HALF = STREAM_HEAD + chunked(sse(chunk({"role": "assistant", "content": "Hel"})))
REST = chunked(sse(*talk("lo")[1:])) + STREAM_END
DETACH = {"statecar-on-disconnect": "detach"}
SILENT = ("--sse-keepalive-seconds=0.02", "--early-stream-after-seconds=0.02", "--late-errors=both")


def address(caller):
    return str(caller.http.base_url).removesuffix("/").removesuffix("/v1")


async def whole(socket):
    """The events of a turn, in which an error may be told beside its failure."""
    events = [await socket.event()]
    while events[-1]["type"] == "error" and "sequence_number" in events[-1] or events[-1]["type"] not in TERMINAL:
        events.append(await socket.event())
    return events


async def test_who_stays_is_told_the_same(calling, backend):
    caller = await calling("--late-errors=both")
    told = []
    for headers in ({}, DETACH):
        turns = []
        async with opened(address(caller), caller.key, **headers) as socket:
            for script in (
                [stream(*talk("Hi"))],
                [HALF, CLOSE],
                [json_reply({"error": {"message": "busy"}}, status=429, headers=("retry-after: 7",))],
            ):
                for lane in ({}, {"stream_id": "a"}):
                    backend.script(*script)
                    await socket.send(**lane)
                    turns.append(renamed(await whole(socket)))
            turns.append(renamed(await socket.ask(generate=False)))
            first = await socket.create("One", store=False)
            turns.append(renamed(await socket.ask("Two", previous_response_id=first["id"])))
        told.append(turns)
    assert told[0] == told[1]
    kinds = [turn[-1]["type"] for turn in told[1]]
    assert kinds[:6] == ["response.completed"] * 2 + ["response.failed"] * 2 + ["error"] * 2


async def test_silences_are_filled_and_logged(calling, backend):
    caller = await calling(*SILENT)
    go = asyncio.Event()
    backend.script(go, stream(*talk("Hi")))
    async with opened(address(caller), caller.key, **DETACH) as socket:
        await socket.send(stream_id="a")
        begun = [await socket.event() for _ in range(5)]
        go.set()
        events = await socket.events(begun)
        assert [event["type"] for event in events[1:5]] == ["response.in_progress"] * 4
        log = frames(await replay(caller, events[0]["response"]["id"]))[:-1]
        assert [{**event, "stream_id": "a"} for event in log] == events
        await socket.create("and on")


@pytest.mark.parametrize("how", ["by the option", "by a header"])
async def test_a_turn_goes_on_when_its_client_leaves(calling, backend, how):
    caller = await calling(*(["--on-disconnect=detach"] if how == "by the option" else []))
    conversation, go = await caller.conversation(), asyncio.Event()
    backend.script(HALF, go, REST)
    headers = DETACH if how == "by a header" else {}
    async with opened(address(caller), caller.key, **headers) as socket:
        await socket.send("Leaving", conversation=conversation, stream_id="a")
        await socket.send("Never asked", conversation=conversation)
        begun = await socket.until("response.output_text.delta")
    id_ = begun[0]["response"]["id"]
    await seen(caller, id_, "in_progress")
    go.set()
    last = await seen(caller, id_, *ENDED)
    assert (last["status"], text_of(last), last["background"]) == ("completed", "Hello", False)
    assert await caller.texts(conversation) == ["Leaving", "Hello"]
    events = frames(await replay(caller, id_))[:-1]
    rules.check(events)
    assert [{**event, "stream_id": "a"} for event in events[: len(begun)]] == begun
    assert len(backend.requests) == 1


@pytest.mark.parametrize("why", ["not stored", "continues what is not stored", "a header", "nothing told yet"])
async def test_a_turn_that_cannot_go_on_ends_with_its_client(calling, backend, why):
    caller = await calling("--on-disconnect=detach")
    backend.default = (stream(*talk("Hi")),)
    headers = {"statecar-on-disconnect": "cancel"} if why == "a header" else {}
    async with opened(address(caller), caller.key, **headers) as socket:
        fields = {"store": False} if why == "not stored" else {}
        if why == "continues what is not stored":
            fields["previous_response_id"] = (await socket.create("One", store=False))["id"]
        backend.script(*([] if why == "nothing told yet" else [HALF]), asyncio.Event())
        count = len(backend.requests)
        await socket.send("Leaving", **fields)
        await backend.received(count + 1)
        if why != "nothing told yet":
            await socket.until("response.output_text.delta")
    async with asyncio.timeout(PATIENCE):
        await backend.requests[-1].gone.wait()
    assert (await caller.get("/responses"))["data"] == []


async def test_what_is_no_way_to_leave_is_refused(url):
    with pytest.raises(InvalidStatus) as caught:
        async with opened(url, **{"statecar-on-disconnect": "stay"}):
            pass
    assert caught.value.response.status_code == 400
    assert json.loads(caught.value.response.body)["error"]["param"] == "statecar-on-disconnect"


async def test_the_end_of_the_process_cuts_off_what_another_one_goes_on_with(calling, backend):
    caller = await calling("--on-disconnect=detach", "--grace=1", "--drain-delay=0")
    async with opened(address(caller), caller.key) as busy, opened(address(caller), caller.key) as mute:
        backend.script(HALF, asyncio.Event())
        await busy.send()
        begun = await busy.until("response.output_text.delta")
        backend.script(asyncio.Event())
        await mute.send()
        await backend.received(2)
        signal.raise_signal(signal.SIGTERM)
        assert await busy.closed() == 1012
        assert (await mute.event())["status"] == 503
        assert await mute.closed() == 1012
    assert (await caller.get(f"/responses/{begun[0]['response']['id']}"))["status"] == "in_progress"
