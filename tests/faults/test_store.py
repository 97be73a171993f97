"""Trouble of the store, one kind after another, under turns, background responses, readers and conversations."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from proxy.state.leases import LEASE
from tests import servers
from tests.backend import STREAM_END, STREAM_HEAD, chunked, sse, talk
from tests.callers import Caller, refusal, unframed
from tests.faults.relay import relayed
from tests.live import strict

pytestmark = pytest.mark.live

UNAVAILABLE = (503, "store_unavailable", None)
BOUND = 8
"""Seconds within which all that is asked of a store in trouble must be answered; each single answer takes 2 at most."""

HALF = STREAM_HEAD + chunked(sse(*talk("Hel")[:2]))
REST = chunked(sse(*talk("lo")[1:])) + STREAM_END
KEPT = ("--appendonly", "yes")


@dataclass
class Fault:
    """``breaks`` and ``mends`` are awaited. ``server``: gives the server that has the data when all is over.

    ``reads``: what is stored can be read all the same; ``late``: what was sent may be done when nobody waits any more.
    """

    url: str
    server: object
    breaks: object
    mends: object
    reads: bool = False
    late: bool = False


def alone(place):
    return servers.Server.on_port(servers.valkey_binary(), place, *KEPT)


def soon(work, *args):
    """Something blocking as something to await."""
    return lambda: asyncio.to_thread(work, *args)


@asynccontextmanager
async def of_the_wire(place):
    server = alone(place)
    try:
        async with relayed(server.url) as relay:
            yield Fault(relay.url, lambda: server, relay.cut, relay.open, late=True)
    finally:
        server.stop()


@asynccontextmanager
async def of_the_process(place, break_, mend):
    server = alone(place)
    try:
        breaks, mends = soon(getattr(server, break_)), soon(getattr(server, mend))
        yield Fault(server.url, lambda: server, breaks, mends, late=break_ == "pause")
    finally:
        server.resume()
        server.stop()


@asynccontextmanager
async def of_its_settings(place, break_, mend, *, reads=True):
    server = alone(place)
    with server.admin() as admin:

        def run(commands):
            for command in commands:
                admin.execute_command(*command.split())

        try:
            yield Fault(server.url, lambda: server, soon(run, break_), soon(run, mend), reads=reads)
        finally:
            server.stop()


@asynccontextmanager
async def of_the_primary(place):
    watched = servers.Watched(servers.valkey_binary(), place)
    first = watched.servers[0]

    def fall():
        watched.catch_up()
        first.stop()

    try:
        yield Fault(watched.url, lambda: watched.primary, soon(fall), soon(watched.moved_from, first))
    finally:
        watched.stop()


FAULTS = {
    "cut": of_the_wire,
    "killed": lambda place: of_the_process(place, "stop", "start"),
    "paused": lambda place: of_the_process(place, "pause", "resume"),
    "read-only": lambda place: of_its_settings(place, ["REPLICAOF 127.0.0.1 1"], ["REPLICAOF NO ONE"]),
    "full": lambda place: of_its_settings(
        place, ["CONFIG SET maxmemory-policy noeviction", "CONFIG SET maxmemory 1"], ["CONFIG SET maxmemory 0"]
    ),
    "locked": lambda place: of_its_settings(
        place,
        ["ACL SETUSER default resetpass >new", "CLIENT KILL TYPE normal SKIPME yes"],
        ["ACL SETUSER default nopass"],
        reads=False,
    ),
    "failover": of_the_primary,
}


@pytest.fixture(params=FAULTS)
async def fault(request, tmp_path):
    async with FAULTS[request.param](tmp_path) as fault:
        yield fault


async def test_trouble_is_said_soon_costs_nothing_that_was_told_and_passes(fault, calling, backend, monkeypatch):
    """A turn and a background response are under way, and another replica reads the latter's events."""
    monkeypatch.setattr("proxy.state._FRESH", 0)  # seconds for which a good save is enough
    caller = await calling("--conversation-lock-wait=20", store=fault.url)
    elsewhere = await calling(store=fault.url)
    conversation = await caller.conversation()
    first = await caller.create("first", conversation=conversation)
    goes = [asyncio.Event(), asyncio.Event()]
    for go in goes:
        backend.script(HALF, go, REST)
    async with Caller(str(elsewhere.http.base_url), caller.key, "") as other, asyncio.TaskGroup() as tasks:
        turn = tasks.create_task(caller.events("lost", conversation=conversation))
        await backend.received(2)
        async with caller.opened("made", background=True) as stream:
            made = (await stream.until("response.created"))["response"]["id"]
            await stream.until("response.output_text.delta")
        reading = asyncio.Event()
        reader = tasks.create_task(replayed(other, made, reading))
        await reading.wait()

        await fault.breaks()
        async with asyncio.timeout(BOUND):
            goes[0].set()
            ended, _ = await asyncio.gather(turn, refused(caller, fault, conversation, first["id"]))
            goes[1].set()
        last = strict.stream(ended)
        assert (last["status"], last["error"]["code"]) == ("failed", "server_error")
        assert last["output"][0]["content"][0]["text"] == "Hello"

        await fault.mends()
        again = strict.response(await recovered(caller, conversation))
        events = await reader
    assert strict.stream(unframed(events))["output"][0]["content"][0]["text"] == "Hello"
    assert await replayed(caller, made) == events
    assert (await caller.get(f"/responses/{first['id']}")) == first
    assert (await caller.get(f"/responses/{again['id']}")) == again
    texts = await caller.texts(conversation)
    assert texts.count("no") <= fault.late
    texts = [text for text in texts if text != "no"]
    assert (texts[:2], texts[-2:]) == (["first", "Hi"], ["next", "Hi"])
    assert texts[2:-2] in ([], ["lost", "Hello"]) if fault.late else len(texts) == 4
    await asyncio.to_thread(nothing_half_done, fault)
    said = [request.json["messages"][-1]["content"] for request in backend.requests if request.method == "POST"]
    assert sorted(said) == ["first", "lost", "made", "next"], "no model works twice, or for what cannot be kept"


async def test_a_store_that_takes_half_a_second_for_each_answer_is_slow_and_no_failure(tmp_path, calling, backend):
    server = alone(tmp_path)
    with server.admin() as admin:
        admin.execute_command("ACL", "SETUSER", "me", "on", ">secret", "~*", "+@all")
    try:
        async with relayed(server.url) as relay:
            url = relay.url.replace("//", "//me:secret@")
            caller, elsewhere = [await calling("--tenant-secret=known", store=url) for _ in range(2)]
            async with Caller(str(elsewhere.http.base_url), caller.key, "") as other:
                first, conversation = await other.create("one"), await other.conversation()
                relay.delay = 0.5  # before the caller's process has said a word to the store

                async def conversed():
                    events = await caller.events("one", conversation=conversation)
                    return events, await other.texts(conversation)

                async def chained():
                    second = await caller.create("two", previous_response_id=first["id"])
                    return (await other.get(f"/responses/{second['id']}")) == second

                async def followed():
                    async with caller.opened("made", background=True) as stream:
                        made = (await stream.until("response.created"))["response"]["id"]
                    return unframed(await replayed(other, made))

                (streamed, texts), is_same, replay = await asyncio.gather(conversed(), chained(), followed())
            relay.delay = 0
    finally:
        server.stop()
    assert (texts, is_same) == (["one", "Hi"], True)
    for events in (streamed, replay):
        assert strict.stream(events)["status"] == "completed"


async def refused(caller, fault, conversation, stored):
    """Asks for all that needs the store."""
    answers = await asyncio.gather(
        caller.ask("no-p", previous_response_id=stored),
        caller.ask("no-c", conversation=conversation, stream=True),
        caller.ask("no-b", background=True),
        caller.http.post("/conversations", json={"metadata": {"no": "no"}}),
        caller.http.post(f"/conversations/{conversation}/items", json={"items": [{"role": "user", "content": "no"}]}),
    )
    reads = await asyncio.gather(
        caller.http.get(f"/responses/{stored}"),
        caller.http.get("/responses"),
        caller.http.get(f"/conversations/{conversation}/items"),
    )
    assert [refusal(answer) for answer in answers] == [UNAVAILABLE] * len(answers)
    assert {answer.headers["retry-after"] for answer in answers} == {"1"}
    assert [answer.status_code for answer in reads] == [200 if fault.reads else 503] * len(reads)


def nothing_half_done(fault):
    """Soon nobody holds anything, and every record has all its items."""
    held = ["sc:*:k", "sc:*:[jw]:*"] + ([] if fault.late else ["sc:runs"])  # a run may be on the list that never was
    with fault.server().admin() as admin:
        servers.until(lambda: not [key for pattern in held for key in admin.scan_iter(pattern)])
        assert [*admin.scan_iter("sc:*:r:*")]
        for record in admin.scan_iter("sc:*:r:*"):
            log, start, split, end = admin.hmget(record, "l", "s", "p", "e")
            tag = record[: record.index(b"}") + 1]
            assert int(start) <= int(split) <= int(end) <= admin.llen(tag + b":l:" + log), record


async def recovered(caller, conversation):
    """The next turn, asked for again and again as clients do, sooner than the lost one's lock ends by itself."""
    async with asyncio.timeout(LEASE - 3):
        while (answer := await caller.ask("next", conversation=conversation)).status_code == 503:
            assert refusal(answer) == UNAVAILABLE
    assert answer.status_code == 200, answer.text
    return answer.json()


async def replayed(caller, id_, begun=None):
    """The bytes of a background response's stream; ``begun`` is set when the first have come."""
    pieces = []
    async with caller.http.stream("GET", f"/responses/{id_}", params={"stream": "true"}) as answer:
        assert answer.status_code == 200
        async for piece in answer.aiter_raw():
            pieces.append(piece)
            if begun:
                begun.set()
    return b"".join(pieces)
