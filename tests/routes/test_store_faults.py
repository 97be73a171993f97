"""A store that is killed or paused, before a request and in the middle of one."""

import asyncio
import time

import pytest

from tests import servers
from tests.backend import STREAM_HEAD, chunk, chunked, sse, talk
from tests.callers import error_of, refusal
from tests.live import strict

pytestmark = pytest.mark.live

BOUND = 6
"""Seconds within which a request must be answered although the store is not."""

HALF = STREAM_HEAD + chunked(sse(*talk("Hel")[:2]))


@pytest.fixture
def own_store(tmp_path_factory):
    server = servers.Server.on_socket(servers.valkey_binary(), tmp_path_factory.mktemp("s"))
    yield server
    server.resume()
    server.stop()


@pytest.fixture
async def fragile(calling, own_store):
    """A caller of a server whose store will fail, which it has used before."""
    caller = await calling(store=own_store.url)
    await caller.create()
    return caller


@pytest.fixture(params=["killed", "paused"])
def fault(request, own_store):
    """(what befalls the store, what ends it)."""
    if request.param == "killed":
        return own_store.stop, own_store.start
    return own_store.pause, own_store.resume


def is_unavailable(answer):
    assert refusal(answer) == (503, "store_unavailable", None)
    assert error_of(answer)["type"] == "server_error"
    return answer.headers["retry-after"] == "1"


async def recovered(caller):
    """Asks until it works again, as a client that retries does."""
    async with asyncio.timeout(servers.PATIENCE):
        while (answer := await caller.ask("Again")).status_code == 503:
            assert is_unavailable(answer)
    return strict.response(answer.json())


async def test_without_a_store_every_stateful_request_is_a_503_soon_and_recovers_by_itself(fragile, backend, fault):
    conversation = await fragile.conversation()
    first = (await fragile.create())["id"]
    asked = len(backend.requests)
    break_down, repair = fault
    break_down()
    requests = [
        fragile.ask(previous_response_id=first),
        fragile.ask(conversation=conversation, stream=True),
        fragile.http.get(f"/responses/{first}"),
        fragile.http.get("/responses"),
        fragile.http.delete(f"/responses/{first}"),
        fragile.http.post("/conversations", json={}),
        fragile.http.get(f"/conversations/{conversation}/items"),
        fragile.http.post(f"/conversations/{conversation}", json={"metadata": {"k": "v"}}),
    ]
    began = time.monotonic()
    answers = await asyncio.gather(*requests)
    assert time.monotonic() - began < BOUND
    assert all(is_unavailable(answer) for answer in answers)
    assert len(backend.requests) == asked
    ready = await fragile.http.get(str(fragile.http.base_url.join("/ready")))
    assert ready.status_code == 503
    assert ready.json()["store"] != "ok"
    repair()
    await recovered(fragile)


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_a_store_that_fails_in_mid_turn_fails_the_turn_in_good_form(fragile, backend, fault, streamed):
    go = asyncio.Event()
    backend.script(HALF, go, chunked(sse(*talk("lo"))) + b"0\r\n\r\n")
    break_down, repair = fault
    asked = len(backend.requests)
    async with asyncio.TaskGroup() as tasks:
        turn = tasks.create_task(fragile.events() if streamed else fragile.ask())
        await backend.received(asked + 1)
        break_down()
        go.set()
        began = time.monotonic()
    assert time.monotonic() - began < BOUND
    if streamed:
        last = strict.stream(turn.result())
        assert (last["status"], last["error"]["code"]) == ("failed", "server_error")
        assert last["output"][0]["content"][0]["text"] == "Hello"
    else:
        assert is_unavailable(turn.result())
    repair()
    await recovered(fragile)


async def test_a_turn_that_is_not_stored_needs_no_store(fragile, backend, fault):
    break_down, repair = fault
    break_down()
    try:
        made = await fragile.create(store=False)
        assert made["status"] == "completed"
        assert strict.stream(await fragile.events(store=False))["status"] == "completed"
    finally:
        repair()


async def test_what_passes_through_needs_no_store(fragile, backend, own_store):
    own_store.stop()
    backend.script(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
    assert (await fragile.http.get("/models")).content == b"{}"
    own_store.start()


async def test_a_conversation_is_free_again_after_its_turn_lost_the_store(calling, backend, own_store):
    caller = await calling("--conversation-lock-wait=20", store=own_store.url)  # above a lease, if its release is lost
    conversation = await caller.conversation()
    go = asyncio.Event()
    backend.script(HALF, go, chunked(sse(chunk({}, "stop"), "[DONE]")) + b"0\r\n\r\n")
    async with asyncio.TaskGroup() as tasks:
        turn = tasks.create_task(caller.events("Lost", conversation=conversation))
        await backend.received(1)
        own_store.pause()
        go.set()
    assert strict.stream(turn.result())["status"] == "failed"
    own_store.resume()
    await recovered(caller)
    strict.response(await caller.create("Next", conversation=conversation))
    texts = await caller.texts(conversation)
    assert texts[-2:] == ["Next", "Hi"]
    assert texts[:-2] in ([], ["Lost", "Hel"])  # a paused store may do later what it was sent


@pytest.mark.parametrize("trouble", [("CONFIG", "SET", "maxmemory", "1"), ("REPLICAOF", "127.0.0.1", "1")])
async def test_a_store_that_takes_no_writes_is_not_ready_and_costs_no_generation(calling, backend, own_store, trouble):
    caller = await calling(store=own_store.url)
    with own_store.admin() as admin:
        admin.config_set("maxmemory-policy", "noeviction")
        admin.execute_command(*trouble)
    ready = await caller.http.get(str(caller.http.base_url.join("/ready")))
    assert ready.status_code == 503 and ready.json()["upstream"] == "ok" and ready.json()["store"] != "ok"
    asked = len(backend.requests)
    assert is_unavailable(await caller.ask())
    assert [request.method for request in backend.requests[asked:]] == []


async def test_a_server_starts_without_its_store_and_finds_it_later(calling, own_store):
    own_store.stop()
    caller = await calling(store=own_store.url)
    assert is_unavailable(await caller.ask())
    own_store.start()
    await recovered(caller)
