"""A client that leaves, in every phase of a turn: the upstream is told, nothing is stored, the conversation is free."""

import asyncio
import json
from contextlib import asynccontextmanager, nullcontext, suppress

import pytest

from proxy.routes.edge import ClientGone, attended, beside
from tests.backend import PATIENCE, STREAM_END, STREAM_HEAD, chunk, chunked, sse, stream, talk
from tests.callers import Caller, refusal
from tests.live import strict

WAIT = "--conversation-lock-wait=10"  # below a lease: only a release lets the next turn in


@pytest.fixture
async def patient(calling):
    """A caller whose turns wait for each other in a conversation."""
    return await calling(WAIT)


@asynccontextmanager
async def sent(caller, headers="", **body):
    """A request to create on a raw connection, its answer unread; leaving the block hangs up."""
    host, port = caller.http.base_url.host, caller.http.base_url.port
    content = json.dumps({"model": "m", "input": "Leaving", **body}).encode()
    head = f"POST /v1/responses HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {caller.key}\r\n{headers}"
    reader, writer = await asyncio.open_connection(host, port, limit=1024)
    try:
        writer.write(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
        yield reader
    finally:
        writer.close()


async def gone(request):
    async with asyncio.timeout(PATIENCE):
        await request.gone.wait()


NEVER = asyncio.Event  # a step that waits until the client is gone
BEGUN = STREAM_HEAD + chunked(sse(chunk({"role": "assistant", "content": ""})))
HALF = BEGUN + chunked(sse(chunk({"content": "Hel"})))
REST = chunked(sse(*talk("lo"))) + STREAM_END
FLOOD = BEGUN + chunked(sse(*[chunk({"content": "x" * 1000})] * 50)) * 200

PHASES = {
    "before the upstream's head": (),
    "before the first payload": (STREAM_HEAD,),
    "before the first text": (BEGUN,),
    "in mid-stream": (HALF,),
    "without ever reading": (FLOOD,),
}


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("phase", PHASES)
async def test_a_client_that_leaves_takes_its_turn_along(patient, backend, phase, streamed):
    conversation = await patient.conversation()
    backend.script(*PHASES[phase], NEVER())
    async with sent(patient, stream=streamed, conversation=conversation) as reader:
        request = await backend.received(1)
        if streamed and phase == "in mid-stream":
            async with asyncio.timeout(PATIENCE):
                while b"output_text.delta" not in await reader.readline():
                    pass
    await gone(request)
    assert strict.response(await patient.create("Next", conversation=conversation))
    assert await patient.texts(conversation) == ["Next", "Hi"]
    assert [made["input"][0]["content"][0]["text"] for made in (await patient.get("/responses"))["data"]] == ["Next"]


async def test_half_a_request_is_nobodys(caller, backend, caplog):
    base = caller.http.base_url
    for _ in range(3):
        reader, writer = await asyncio.open_connection(base.host, base.port)
        writer.write(b"POST /v1/responses HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        writer.write_eof()
        async with asyncio.timeout(PATIENCE):
            await reader.read()
        writer.close()
    await caller.create()
    assert len(backend.requests) == 1
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_response_whose_reader_left_is_not_there(caller, backend):
    backend.script(HALF, NEVER())
    async with caller.opened() as opened:
        created = await opened.frame()
        await opened.until("response.output_text.delta")
    await gone(backend.requests[0])
    assert (await caller.http.get(f"/responses/{created['response']['id']}")).status_code == 404


async def test_one_that_leaves_while_it_waits_for_the_conversation_never_gets_its_turn(patient, backend):
    conversation = await patient.conversation()
    go = asyncio.Event()
    backend.script(HALF, go, REST)
    async with patient.opened("First", conversation=conversation) as first:
        await first.until("response.output_text.delta")
        async with sent(patient, conversation=conversation):
            await asyncio.sleep(0.2)  # it stands in line; if it did not yet, less is proven and nothing fails
        go.set()
        await first.rest()
    await patient.create("Next", conversation=conversation)
    assert await patient.texts(conversation) == ["First", "Hello", "Next", "Hi"]
    assert len(backend.requests) == 2


async def test_a_slow_reader_gets_all_of_it(caller, backend):
    texts = ["word " * 50] * 2000
    backend.script(stream(*talk(*texts)))
    async with caller.opened() as opened:
        await opened.until("response.output_text.delta")
        await backend.received(1)
        frames = await opened.rest()
    assert frames[-2]["response"]["output"][0]["content"][0]["text"] == "".join(texts)


# -- two turns, one conversation


async def test_a_second_turn_is_told_that_the_conversation_is_taken(caller, backend):
    conversation = await caller.conversation()
    go = asyncio.Event()
    backend.script(HALF, go, REST)
    async with caller.opened("First", conversation=conversation) as first:
        await first.until("response.output_text.delta")
        for streamed in (False, True):
            second = await caller.ask("Second", conversation=conversation, stream=streamed)
            assert refusal(second) == (400, "conversation_locked", "conversation")
        reading = await caller.create("Beside", conversation=conversation, store=False)
        assert reading["status"] == "completed"
        go.set()
        await first.rest()
    assert await caller.texts(conversation) == ["First", "Hello"]
    await caller.create("Third", conversation=conversation)
    assert await caller.texts(conversation) == ["First", "Hello", "Third", "Hi"]


async def test_a_second_turn_waits_where_it_is_told_to(patient, backend):
    conversation = await patient.conversation()
    go = asyncio.Event()
    backend.script(HALF, go, REST)
    async with patient.opened("First", conversation=conversation) as first, asyncio.TaskGroup() as tasks:
        await first.until("response.output_text.delta")
        second = tasks.create_task(patient.create("Second", conversation=conversation))
        go.set()
        await first.rest()
    assert second.result()["status"] == "completed"
    assert await patient.texts(conversation) == ["First", "Hello", "Second", "Hi"]
    asked = [message["content"] for message in backend.requests[1].json["messages"]]
    assert asked == ["First", "Hello", "Second"]


async def test_a_refused_turn_frees_its_conversation(caller, backend):
    conversation = await caller.conversation()
    for streamed in (False, True):
        backend.script(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n")
        assert (await caller.ask(conversation=conversation, stream=streamed)).status_code == 500
    await caller.create("Next", conversation=conversation)
    assert await caller.texts(conversation) == ["Next", "Hi"]


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_a_conversation_deleted_in_mid_turn_stays_deleted_and_the_response_is_kept(caller, backend, streamed):
    conversation = await caller.conversation()
    go = asyncio.Event()
    backend.script(HALF, go, REST)
    async with asyncio.TaskGroup() as tasks:
        turn = tasks.create_task(caller.ask("First", conversation=conversation, stream=streamed))
        await backend.received(1)
        deleted = await caller.http.delete(f"/conversations/{conversation}")
        strict.deleted_conversation(deleted.json())
        go.set()
    answer = turn.result()
    assert answer.status_code == 200
    made = (await caller.get("/responses"))["data"]
    assert [one["output"][0]["content"][0]["text"] for one in made] == ["Hello"]
    assert made[0]["status"] == "completed"
    for path in ("", "/items"):
        assert (await caller.http.get(f"/conversations/{conversation}{path}")).status_code == 404
    assert refusal(await caller.ask(conversation=conversation)) == (404, None, "conversation")
    follow = await caller.create("Then", previous_response_id=made[0]["id"])
    assert follow["status"] == "completed"
    assert [m["content"] for m in backend.requests[-1].json["messages"]] == ["First", "Hello", "Then"]


async def test_items_changed_in_mid_turn_count_from_the_next_turn_on(caller, backend):
    conversation = await caller.conversation(items=[{"role": "user", "content": "Old", "id": "msg_old"}])
    go = asyncio.Event()
    backend.script(HALF, go, REST)
    async with caller.opened("First", conversation=conversation) as first:
        await first.until("response.output_text.delta")
        added = {"items": [{"role": "user", "content": "Added"}]}
        assert (await caller.http.post(f"/conversations/{conversation}/items", json=added)).status_code == 200
        assert (await caller.http.delete(f"/conversations/{conversation}/items/msg_old")).status_code == 200
        go.set()
        await first.rest()
    assert await caller.texts(conversation) == ["Added", "First", "Hello"]
    assert [m["content"] for m in backend.requests[0].json["messages"]] == ["Old", "First"]


async def test_a_stranger_cannot_lock_a_conversation(url, caller, backend):
    conversation = await caller.conversation()
    backend.script(HALF, NEVER())
    async with Caller(url) as stranger, sent(caller, conversation=conversation):
        await backend.received(1)
        assert refusal(await stranger.ask(conversation=conversation)) == (404, None, "conversation")


@pytest.mark.parametrize("steps", range(8))
async def test_a_client_that_leaves_just_as_its_answer_is_ready_breaks_nothing(steps):
    """Whichever step of the loop it is that both happen in."""
    gone, errors = asyncio.Event(), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))

    async def receive():
        await gone.wait()
        return {"type": "http.disconnect"}

    with suppress(ClientGone):
        async with attended(receive):
            await asyncio.sleep(0)
            gone.set()
            for _ in range(steps):
                await asyncio.sleep(0)
    for _ in range(8):
        await asyncio.sleep(0)
    asyncio.get_running_loop().set_exception_handler(None)
    assert errors == []


class Silence:
    """Nothing is to be done meanwhile."""

    def due_in(self):
        return None

    async def tick(self):
        raise AssertionError


@pytest.mark.parametrize(
    ("end", "raised"),
    {
        "it is done": (None, None),
        "it fails": (KeyError(), KeyError),
        "it is cancelled": (asyncio.CancelledError(), asyncio.CancelledError),
        "the client leaves": ("leave", ClientGone),
        "the client leaves as it is done": ("leave, done", None),
        "the request is cancelled": ("cancel", asyncio.CancelledError),
    }.values(),
)
async def test_work_beside_its_request_ends_with_it_and_in_its_way(end, raised):
    left, closed, request = asyncio.Event(), [], asyncio.current_task()

    async def receive():
        await left.wait()
        return {"type": "http.disconnect"}

    async def work():
        try:
            await asyncio.sleep(0)
            if isinstance(end, BaseException):
                raise end
            if end in ("leave", "cancel"):
                request.cancel() if end == "cancel" else left.set()
                await asyncio.Event().wait()
        finally:
            for _ in range(3):
                await asyncio.sleep(0)
            closed.append(True)
            if end == "leave, done":
                left.set()

    with pytest.raises(raised) if raised else nullcontext():
        await beside(receive, Silence(), work())
    assert closed
    if end == "cancel":
        request.uncancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not request.cancelling()


async def test_work_beside_its_request_is_over_before_that_is_also_where_it_is_cancelled_once_more():
    """As by a server that ends while a client leaves: nothing may go on by itself."""
    closing, steps = asyncio.Event(), []

    async def receive():
        await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            try:
                closing.set()
                await asyncio.Event().wait()  # what it waits for is cut short too
            finally:
                await asyncio.sleep(0)
                steps.append("closed")

    request = asyncio.create_task(beside(receive, Silence(), work()))
    async with asyncio.timeout(PATIENCE):
        await closing.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
    assert steps == ["closed"]
