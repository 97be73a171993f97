"""What a request has needed is gone with it: in no cycle, which would keep its whole context for the collector."""

import asyncio
import gc

import pytest

from proxy.protocol import Http
from proxy.turn import Turn
from tests.backend import (
    CLOSE,
    PATIENCE,
    RESET,
    STREAM_HEAD,
    chunk,
    chunked,
    completion,
    json_reply,
    reply,
    sse,
    stream,
    talk,
)
from tests.loops import forget_cancelled_timers
from tests.routes.hosted import FIND, at, called, docs, said

REFUSED = reply(b'{"error":{"message":"no"}}', status=429)
HALF = STREAM_HEAD + chunked(sse(chunk({"content": "Hel"})))
ERROR = {"error": {"message": "dead"}}
PLAIN, STREAM = json_reply(completion()), stream(*talk("Hi", "!"))


@pytest.fixture
def garbage():
    """Collects what cycles have kept; gives the objects that are ours, those found before among them."""

    async def collected():
        await forget_cancelled_timers()
        gc.collect()
        found = [type(each) for each in gc.garbage]
        gc.garbage.clear()
        return {one for one in found if one.__module__.startswith("proxy.")} - {Http}  # uvicorn's, one a connection

    gc.disable()
    gc.freeze()  # what other tests have left is not looked at again and again
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield collected
    gc.set_debug(0)
    gc.garbage.clear()
    gc.unfreeze()
    gc.enable()


CASES = {
    "plain": ([PLAIN], {}),
    "not stored": ([PLAIN], {"store": False}),
    "streamed": ([STREAM], {"stream": True}),
    "in a conversation": ([PLAIN], {"conversation": ...}),
    "chained": ([STREAM], {"previous_response_id": ..., "stream": True}),
    "in the background": ([STREAM], {"background": True, "stream": True}),
    "refused": ([REFUSED], {}),
    "refused here": ([], {"tools": 1}),
    "of an unknown response": ([], {"previous_response_id": "resp_1"}),
    "refused, streamed": ([REFUSED], {"stream": True}),
    "of an unknown response, streamed": ([], {"previous_response_id": "resp_1", "stream": True}),
    "failed before its first event": ([stream(ERROR)], {"stream": True}),
    "failed in the middle": ([stream(chunk({"content": "Hel"}), ERROR)], {"stream": True}),
    "cut off": ([HALF, CLOSE], {"stream": True}),
    "cut off before its head": ([RESET], {"stream": True}),
    "cut off in the background": ([HALF, CLOSE], {"background": True}),
}


@pytest.mark.parametrize("option", ["--on-disconnect=cancel", "--on-disconnect=detach", "--traces=on"])
async def test_a_request_leaves_nothing_to_the_collector(calling, backend, garbage, option, monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    caller = await calling(option)
    before = {"conversation": await caller.conversation(), "previous_response_id": (await caller.create())["id"]}
    for case, (script, fields) in CASES.items():
        await garbage()
        if script:
            backend.script(*script)
        await caller.ask(**{name: before[name] if value is ... else value for name, value in fields.items()})
        await asyncio.sleep(0.02)  # its task may still be about to end
        assert await garbage() == set(), case


async def test_an_upstream_that_is_away_leaves_nothing_to_the_collector(calling, garbage):
    caller = await calling(upstream="http://127.0.0.1:1/v1")
    for fields in ({}, {"stream": True}, {"background": True}):
        await garbage()
        await caller.ask(**fields)
        await asyncio.sleep(0.02)
        assert await garbage() == set(), fields


@pytest.mark.parametrize("disconnect", ["cancel", "detach"])
async def test_a_turn_that_ends_early_leaves_nothing_to_the_collector(calling, backend, garbage, disconnect):
    caller = await calling(f"--on-disconnect={disconnect}")
    backend.script(HALF, asyncio.Event())
    await garbage()
    async with caller.opened() as opened:
        made = (await opened.frame())["response"]["id"]
        await opened.until("response.output_text.delta")
    if disconnect == "detach":
        assert (await caller.http.post(f"/responses/{made}/cancel")).status_code == 200
    async with asyncio.timeout(PATIENCE):
        await backend.requests[0].gone.wait()
    await asyncio.sleep(0.02)
    assert await garbage() == set()


async def test_a_turn_whose_tools_run_here_leaves_nothing_of_itself_to_the_collector(serve, backend, garbage):
    """The MCP client leaves some of its own."""
    async with at(serve) as (caller, server):
        await garbage()
        backend.script(called(FIND))
        backend.script(said("Found"))
        assert (await caller.create(tools=[docs(server)]))["status"] == "completed"
        await asyncio.sleep(0.02)
        assert Turn not in await garbage()
