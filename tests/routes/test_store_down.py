"""``--store-down stateless``: what needs no state is served while the store is away, and says that it is not kept."""

import asyncio
import re

import pytest

from proxy.errors import StoreUnavailable
from proxy.state.keys import PROBE
from tests import servers
from tests.backend import STREAM_HEAD, chunk, chunked, sse, talk
from tests.callers import refusal, unframed
from tests.live import strict

pytestmark = pytest.mark.live

HEADER = "statecar-stateless"
UNAVAILABLE = (503, "store_unavailable", None)
HALF = STREAM_HEAD + chunked(sse(*talk("Hel")[:2]))
REFERENCE = {"type": "item_reference", "id": "msg_" + "0" * 48}


@pytest.fixture
def own_store(tmp_path_factory):
    server = servers.Server.on_socket(servers.valkey_binary(), tmp_path_factory.mktemp("s"))
    yield server
    server.resume()
    server.stop()


@pytest.fixture
async def caller(own_store, calling):
    """A caller of a server that goes on without its store."""
    return await calling("--store-down=stateless", "--log-format=json", store=own_store.url)


def is_unkept(answer):
    made = strict.response(answer.json())
    assert (answer.status_code, answer.headers[HEADER]) == (200, "true")
    assert made["store"] is False and made["status"] == "completed"
    return made


async def ready(caller):
    return await caller.http.get(str(caller.http.base_url.join("/ready")))


@pytest.mark.parametrize("fault", ["killed", "paused", "read-only"])
async def test_what_needs_no_state_is_served_and_what_does_is_refused(caller, backend, own_store, fault, monkeypatch):
    conversation, first = await caller.conversation(), await caller.create()
    assert HEADER not in (await caller.ask()).headers
    assert (await ready(caller)).json()["status"] == "ready"
    monkeypatch.setattr("proxy.state._FRESH", 0)  # seconds for which a good save is enough
    if fault == "read-only":
        with own_store.admin() as admin:
            admin.replicaof("127.0.0.1", "1")
    else:
        (own_store.stop if fault == "killed" else own_store.pause)()
    asked = len(backend.requests)
    made = is_unkept(await caller.ask())
    is_unkept(await caller.ask(store=True))
    streamed = await caller.ask(stream=True)
    assert streamed.headers[HEADER] == "true" and strict.stream(unframed(streamed.content))["store"] is False
    detached = await caller.http.post(
        "/responses", json={"model": "m", "input": "Hi"}, headers={"statecar-on-disconnect": "detach"}
    )
    is_unkept(detached)
    unasked = await caller.ask(store=False)
    assert unasked.status_code == 200 and HEADER not in unasked.headers
    told = await ready(caller)
    assert (told.status_code, told.json()["status"]) == (200, "degraded") and told.json()["store"] != "ok"
    spoken = sum(request.method == "POST" for request in backend.requests[asked:])
    assert spoken == 5
    refused = await asyncio.gather(
        caller.ask(previous_response_id=first["id"]),
        caller.ask(conversation=conversation),
        caller.ask([REFERENCE]),
        caller.ask(background=True),
        caller.http.post("/responses", json={"model": "m", "input": "Hi"}, headers={"idempotency-key": "k"}),
        caller.http.post("/conversations", json={}),
        *([] if fault == "read-only" else [caller.http.get(f"/responses/{first['id']}")]),
    )
    assert [refusal(answer) for answer in refused] == [UNAVAILABLE] * len(refused)
    assert sum(request.method == "POST" for request in backend.requests[asked:]) == spoken
    await repaired(own_store, fault)
    await kept_again(caller)
    assert (await caller.http.get(f"/responses/{made['id']}")).status_code == 404
    metrics = (await caller.http.get(str(caller.http.base_url.join("/metrics")))).text
    counted = re.search(r'statecar_stateless_turns_total{model="m"} (\d+)', metrics)
    assert counted and int(counted[1]) >= 4  # and those that found out whether the store is back


async def repaired(store, fault):
    if fault == "read-only":
        with store.admin() as admin:
            admin.replicaof("NO", "ONE")
    else:
        (store.start if fault == "killed" else store.resume)()


async def kept_again(caller):
    async with asyncio.timeout(servers.PATIENCE):
        while HEADER in (answer := await caller.ask()).headers:
            is_unkept(answer)
            await asyncio.sleep(0.05)
    assert (await caller.get(f"/responses/{answer.json()['id']}"))["id"] == answer.json()["id"]


async def test_a_store_that_dies_under_a_turn_still_fails_it(caller, backend, own_store):
    go = asyncio.Event()
    backend.script(HALF, go, chunked(sse(chunk({}, "stop"), "[DONE]")) + b"0\r\n\r\n")
    async with asyncio.TaskGroup() as tasks:
        turn = tasks.create_task(caller.events())
        await backend.received(1)
        own_store.stop()
        go.set()
    last = strict.stream(turn.result())
    assert (last["status"], last["store"]) == ("failed", True)


@pytest.mark.parametrize(
    ("options", "served"),
    [((), True), (("--tenant-secret=s3cret",), True), (("--seal-key=sixteen letters!",), False)],
    ids=["unknown", "fixed", "sealing"],
)
async def test_a_server_that_starts_without_its_store_serves_whom_it_cannot_tell_apart(
    calling, own_store, options, served
):
    """Where texts are sealed for their tenant it does not, as none could be read later."""
    own_store.stop()
    caller = await calling("--store-down=stateless", *options, store=own_store.url)
    answer = await caller.ask()
    if served:
        is_unkept(answer)
        assert (await caller.ask(store=False)).status_code == 200
    else:
        assert refusal(answer) == UNAVAILABLE
    assert refusal(await caller.ask(store=False, previous_response_id="resp_" + "0" * 48)) == UNAVAILABLE
    assert refusal(await caller.http.get("/responses")) == UNAVAILABLE
    own_store.start()
    if not served:
        async with asyncio.timeout(servers.PATIENCE):
            while (await caller.ask()).status_code == 503:
                pass
    await kept_again(caller)


async def test_a_tenant_that_is_not_known_finds_and_leaves_nothing(calling, own_store, monkeypatch):
    """Although the store is back in the middle of its request."""
    caller = await calling("--store-down=stateless", store=own_store.url)
    first = await caller.create()

    async def away(self):
        raise StoreUnavailable

    monkeypatch.setattr("proxy.state.secret.TenantSecret.get", away)
    with own_store.admin() as admin:
        before = kept(admin)
        made = is_unkept(await caller.ask())
        assert refusal(await caller.ask(previous_response_id=first["id"])) == UNAVAILABLE
        assert refusal(await caller.ask([REFERENCE], store=False)) == UNAVAILABLE
        assert kept(admin) == before
    assert made["store"] is False


def kept(admin):
    """The names of all that a store has, but for what proves for a second that it takes writes."""
    return {*admin.keys("*")} - {PROBE.encode()}
