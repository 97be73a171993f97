"""Turns with tools that run here, however they are asked for and however they end (wire §3.1, §3.4, §10.13, §13)."""

import asyncio
import json
import secrets
import signal

import pytest

from tests.backend import PATIENCE
from tests.callers import Caller, ok
from tests.live import strict
from tests.mcp_servers import Tool
from tests.routes.hosted import FIND, at, called, docs, types
from tests.routes.test_background import eventually, made, seen
from tests.routes.test_leaving import sent
from tests.sockets import opened

SECRET = "sk-very-secret"


class Slow:
    """A tool that does not answer before it is let; ``gone``: its call was cancelled."""

    def __init__(self):
        self.go, self.gone = asyncio.Event(), asyncio.Event()
        self.tool = Tool("search", self.run)

    async def run(self, _):
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.gone.set()
            raise
        return "found"

    async def cancelled(self):
        async with asyncio.timeout(PATIENCE):
            await self.gone.wait()


@pytest.fixture
def slow():
    return Slow()


@pytest.fixture(autouse=True)
def apart(monkeypatch):
    """No other test's server takes up what these have left."""
    monkeypatch.setattr("proxy.state.runs.RUNS", f"sc:runs:{secrets.token_hex(8)}")


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_a_client_that_leaves_takes_the_running_tool_along(serve, backend, slow, streamed):
    async with at(serve, slow.tool, options=["--conversation-lock-wait=10"]) as (caller, server):
        conversation = await caller.conversation()
        backend.script(called(FIND))
        async with sent(caller, stream=streamed, conversation=conversation, tools=[docs(server)]):
            await server.called(1)
        await slow.cancelled()
        await caller.create("Next", conversation=conversation)
        assert await caller.texts(conversation) == ["Next", "Hi"]
        assert len((await caller.get("/responses"))["data"]) == 1


async def test_a_run_that_is_cancelled_takes_the_running_tool_along(serve, backend, slow):
    async with at(serve, slow.tool) as (caller, server):
        backend.script(called(FIND))
        run = await made(caller, tools=[docs(server)])
        await server.called(1)
        last = ok(await caller.http.post(f"/responses/{run['id']}/cancel"))
        await slow.cancelled()
        assert (last["status"], types(last["output"])) == ("cancelled", ["mcp_list_tools", "mcp_call"])
        assert last["output"][1]["status"] == "incomplete"


async def test_a_run_that_takes_too_long_takes_the_running_tool_along(serve, backend, slow):
    async with at(serve, slow.tool, options=["--background-timeout=2"]) as (caller, server):
        backend.script(called(FIND))
        run = await made(caller, tools=[docs(server)])
        last = await seen(caller, run["id"], "failed")
        await slow.cancelled()
        assert "longer than the 2 s" in last["error"]["message"]


async def test_a_process_that_ends_takes_the_running_tool_along(serve, backend, slow):
    async with at(serve, slow.tool, options=["--grace=0"]) as (caller, server):
        backend.script(called(FIND))
        asking = asyncio.create_task(caller.events(tools=[docs(server)]))
        await server.called(1)
        signal.raise_signal(signal.SIGTERM)
        await slow.cancelled()
        last = strict.stream(await asking)
        assert (last["status"], last["output"][-1]["status"]) == ("failed", "incomplete")


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_a_background_response_has_the_same_items(serve, backend, streamed):
    async with at(serve) as (caller, server):
        backend.script(called(FIND))
        if streamed:
            last = strict.stream(await caller.events(background=True, tools=[docs(server)]))
        else:
            run = await made(caller, tools=[docs(server)])
            last = await seen(caller, run["id"], "completed", "failed")
        assert (last["status"], types(last["output"])) == ("completed", ["mcp_list_tools", "mcp_call", "message"])
        answer = await caller.http.get(f"/responses/{last['id']}", params={"stream": "true"})
        assert (answer.status_code == 200) == streamed


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_a_key_stands_for_a_response_whose_tools_ran_once(serve, backend, streamed):
    async with at(serve) as (caller, server):
        caller.http.headers["idempotency-key"] = "k"
        backend.script(called(FIND))
        told = [await (caller.events if streamed else caller.create)(tools=[docs(server)]) for _ in range(2)]
        assert told[0] == told[1]
    assert len(server.calls) == 1


async def test_a_turn_that_goes_on_without_its_client_ends_what_its_tools_began(serve, backend, slow):
    async with at(serve, slow.tool, options=["--on-disconnect=detach"]) as (caller, server):
        backend.script(called(FIND))
        async with caller.opened(tools=[docs(server)]) as stream:
            id_ = (await stream.until("response.created"))["response"]["id"]
            await server.called(1)
        slow.go.set()
        last = await seen(caller, id_, "completed", "failed")
        assert types(last["output"]) == ["mcp_list_tools", "mcp_call", "message"]


async def test_a_websocket_remembers_what_its_tools_gave(serve, backend):
    async with at(serve) as (caller, server):
        async with opened(str(caller.http.base_url).removesuffix("/v1/"), key=caller.key) as socket:
            backend.script(called(FIND))
            last = await socket.create(tools=[docs(server)], store=False)
            assert types(last["output"]) == ["mcp_list_tools", "mcp_call", "message"]
            last = await socket.create(tools=[docs(server)], store=False, previous_response_id=last["id"])
            assert types(last["output"]) == ["message"]
    assert (server.listings, len(server.calls)) == (1, 1)


@pytest.mark.parametrize(
    "fields", [{}, {"background": True}, {"stream": True}], ids=["plain", "background", "streamed"]
)
async def test_what_a_server_is_sent_in_secret_is_nowhere_else(serve, own, backend, slow, caplog, fields):
    caplog.set_level("DEBUG")
    async with at(
        serve, slow.tool, store=own.url, options=["--on-disconnect=detach", "--seal-key=" + "k" * 32]
    ) as both:
        caller, server = both
        backend.script(called(FIND))
        url = f"{server.url}?key={SECRET}1"
        tool = docs(server, server_url=url, authorization=f"{SECRET}2", headers={"x-key": f"{SECRET}3"})
        asking = asyncio.create_task(caller.ask(tools=[tool], **fields))
        await server.called(1)
        with own.admin() as admin:
            kept = [dumped(admin)]
            slow.go.set()
            told = (await asking).text
            if fields.get("background"):
                told += json.dumps(await seen(caller, json.loads(told)["id"], "completed"))
            kept.append(dumped(admin))
        sent_ = [headers for _, headers in server.requests]
        assert all(
            headers["authorization"] == f"Bearer {SECRET}2" and headers["x-key"] == f"{SECRET}3" for headers in sent_
        )
        assert "<redacted>" in told
        assert not any(SECRET in text for text in (told, *kept, caplog.text, json.dumps(backend.requests[-1].json)))


def dumped(admin):
    """All that a store holds."""
    read = {
        b"string": admin.get,
        b"hash": admin.hgetall,
        b"list": lambda key: admin.lrange(key, 0, -1),
        b"zset": lambda key: admin.zrange(key, 0, -1),
        b"stream": admin.xrange,
        b"none": repr,  # it has expired just now
    }
    return repr([(key, read[admin.type(key)](key)) for key in admin.keys("*")])


async def test_calls_and_rounds_are_counted(serve, backend):
    async with at(serve) as (caller, server):
        backend.script(called(FIND))
        await caller.create(tools=[docs(server)])
        root = str(caller.http.base_url).removesuffix("/v1/")
        async with Caller(root, prefix="") as operator:

            async def told():
                text = (await operator.http.get("/metrics")).text
                return text if 'statecar_tool_calls_total{outcome="completed",tool="mcp"} 1.0' in text else None

            text = await eventually(told)
        assert 'statecar_tool_seconds_count{tool="mcp"} 1.0' in text
        assert 'statecar_turn_part_seconds_count{part="tools"} 1.0' in text
