"""Detached turns in real processes that are killed or told to end."""

import asyncio
import json

import httpx
import pytest

from tests import servers
from tests.backend import STREAM_HEAD, chunked, sse, talk
from tests.callers import Caller
from tests.live.test_background import HALF, called_for, ended, launch, lose, replay, store, text_of, url_of
from tests.routes.test_background import eventually
from tests.translate import rules

pytestmark = pytest.mark.live
__all__ = ["launch", "store"]  # fixtures

BEGUN = STREAM_HEAD + chunked(sse(talk("")[0]))


async def told(caller, events, **fields):
    """(status, events) of a stream, as far as it came; ``events``: where they are put."""
    body = {"model": "m", "input": "Hi", "stream": True} | fields
    async with caller.http.stream("POST", "/responses", json=body, timeout=servers.PATIENCE) as answer:
        try:
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    events.append(json.loads(line[6:]))
        except httpx.RemoteProtocolError:  # killed
            pass
        return answer.status_code, events


async def asked(caller, **fields):
    """A plain answer, None where the process was killed before."""
    try:
        body = {"model": "m", "input": "Hi"} | fields
        return await caller.http.post("/responses", json=body, timeout=servers.PATIENCE)
    except httpx.RemoteProtocolError:
        return None


@pytest.mark.parametrize("way", ["killed", "ended"])
async def test_what_a_lost_process_was_making_is_ended_by_another(launch, backend, store, way):
    options = ("--on-disconnect=detach", "--upstream-api-key=ours", "--grace=1", "--drain-delay=0")
    options += ("--log-format=json", "--log-level=debug")
    first, second, never = launch(*options), launch(*options), asyncio.Event()
    async with Caller(await url_of(first)) as caller, Caller(await url_of(second)) as other:
        other.http.headers["authorization"] = f"Bearer {caller.key}"
        conversation = await caller.conversation()
        reading, heard = [], ([], [])
        for asking, script in (
            (asked(caller, conversation=conversation), HALF),
            (told(caller, heard[0]), BEGUN),
            (told(caller, heard[1]), HALF),
        ):
            count = len(backend.requests)
            backend.script(script, never)
            reading.append(asyncio.create_task(asking))
            await backend.received(count + 1)
        with store.admin() as admin:
            await eventually(lambda: runs(admin, 3))
            names = {f"resp_{member[:22].hex()}0000" for member in admin.zrange("sc:runs", 0, -1)}
        await eventually(lambda: have_heard(heard))
        await lose(way, first)
        plain, (status, mute), (_, talking) = await asyncio.gather(*reading)
        assert plain is None if way == "killed" else (plain.status_code, plain.headers["retry-after"]) == (503, "1")
        assert [event["type"] for event in mute] == ["response.created", "response.in_progress"]
        assert (status, talking[-1]["type"]) == (200, "response.output_text.delta")
        mute_id, talking_id = mute[0]["response"]["id"], talking[0]["response"]["id"]
        [plain_id] = names - {mute_id, talking_id}
        last = await ended(other, plain_id)
        assert (last["status"], text_of(last), last["background"]) == ("completed", "Hi", False)
        assert await other.texts(conversation) == ["Hi", "Hi"]
        for id_, seen, wanted in ((mute_id, mute, "completed"), (talking_id, talking, "failed")):
            assert (await ended(other, id_))["status"] == wanted
            events = await replay(other, id_)
            rules.check(events)
            assert events[: len(seen)] == seen
    assert called_for(second) == {plain_id, mute_id}
    with store.admin() as admin:
        assert admin.zcard("sc:runs") == 0


async def have_heard(readers):
    """Whether what was said to them has come through."""
    last = [events[-1]["type"] for events in readers if events]
    return last == ["response.in_progress", "response.output_text.delta"]


async def runs(admin, count):
    return admin.zcard("sc:runs") == count
