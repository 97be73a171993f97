"""MCP servers that are down, slow, rude, lying or dying: every turn with them ends well, and says what went wrong."""

import asyncio

import pytest
from starlette.responses import HTMLResponse, PlainTextResponse, StreamingResponse

from tests import servers
from tests.live import strict
from tests.mcp_servers import SEARCH, Liar, McpServer, Tool
from tests.routes.hosted import ALLOWED, FIND, at, called, docs, messages, offered, said, types

CUT = "--tool-output-limit=1000"


def limits(fault):
    """Options under which a fault that never ends does: what is well may be slow on a busy machine."""
    return (CUT, "--tool-timeout=0.5") if fault == "silence" or "without end" in fault else (CUT,)


LISTED = {"tools": [{"name": "search", "inputSchema": {"type": "object"}}]}


def result(text="found", **more):
    return {"content": [{"type": "text", "text": text}], **more}


async def never(_):
    await asyncio.Event().wait()


async def drip():
    while True:
        yield b": still here\n\n"
        await asyncio.sleep(0.01)


def endless(_):
    return StreamingResponse(drip(), media_type="text/event-stream")


LISTS = {
    "silence": never,
    "an error": lambda _: None,
    "a page of HTML": lambda _: HTMLResponse("<p>Sign in</p>"),
    "401": lambda _: PlainTextResponse("who are you?", 401),
    "500": lambda _: PlainTextResponse("oh", 500),
    "a redirect to elsewhere": lambda _: PlainTextResponse("", 307, {"location": "http://169.254.169.254/mcp"}),
    "a number": {"tools": 1},
    "a stream without end": endless,
    "pages without end": {**LISTED, "nextCursor": "more"},
    "half an answer": lambda _: PlainTextResponse('{"jsonrpc": "2.0", "id"', media_type="application/json"),
}


@pytest.mark.parametrize("fault", LISTS)
async def test_a_server_that_cannot_be_listed_is_left_out(calling, backend, fault):
    caller = await calling(ALLOWED, *limits(fault))
    backend.script(said("I could not look."))
    async with Liar({"tools/list": LISTS[fault]}) as server:
        last = strict.stream(await caller.events(tools=[docs(server)]))
    assert types(last["output"]) == ["mcp_list_tools", "message"] and last["status"] == "completed"
    assert last["output"][0]["error"] and last["output"][0]["tools"] == []
    assert offered(backend) == [] and "169.254" not in last["output"][0]["error"]


CALLS = {
    "silence": (never, "http_error"),
    "an error": (lambda _: None, "mcp_protocol_error"),
    "a page of HTML": (lambda _: HTMLResponse("<p>Sign in</p>"), "mcp_protocol_error"),
    "403": (lambda _: PlainTextResponse("no", 403), "http_error"),
    "a stream without end": (endless, "http_error"),
    "a number": ({"content": 1}, "http_error"),
    "five million letters": (result("x" * 5_000_000), "http_error"),
    "its own failure": (result("The disk is full.", isError=True), "mcp_tool_execution_error"),
}


@pytest.mark.parametrize("fault", CALLS)
async def test_a_call_that_fails_is_told_to_client_and_model(calling, backend, fault):
    answer, kind = CALLS[fault]
    caller = await calling(ALLOWED, *limits(fault))
    backend.script(called(FIND))
    backend.script(said("I could not look."))
    async with Liar({"tools/list": LISTED, "tools/call": answer}) as server:
        last = strict.stream(await caller.events(tools=[docs(server)]))
    call = last["output"][1]
    assert types(last["output"]) == ["mcp_list_tools", "mcp_call", "message"] and last["status"] == "completed"
    assert (call["status"], call["output"], call["error"]["type"]) == ("failed", None, kind)
    role, told = messages(backend)[-1]
    assert role == "tool" and told


LIES = {
    "a schema that is none": ({"inputSchema": {"type": "object", "properties": [1]}}, False),
    "a schema without a type": ({"inputSchema": {}}, False),
    "a schema that knows no arguments": ({"inputSchema": {"type": "object", "additionalProperties": False}}, True),
    "a result that breaks its schema": ({"outputSchema": {"type": "object", "required": ["n"]}}, True),
    "a tool that is told twice": ({}, True),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_server_that_lies_about_its_tools_harms_nobody(calling, backend, lie):
    told, usable = LIES[lie]
    caller = await calling(ALLOWED)
    if usable:
        backend.script(called(FIND))
    one = {"name": "search", "inputSchema": {"type": "object"}, **told}
    answers = {"tools/list": {"tools": [one, one]}, "tools/call": result(structuredContent={"m": 1})}
    async with Liar(answers) as server:
        last = strict.stream(await caller.events(tools=[docs(server)]))
    assert offered(backend, 0) == ["docs__search"] * usable
    assert types(last["output"]) == ["mcp_list_tools", *["mcp_call"] * usable, "message"]
    assert bool(last["output"][0].get("error")) is not usable


async def test_a_giant_output_is_cut_and_says_so(serve, backend):
    async with at(serve, Tool("search", lambda _: "x" * 500_000), options=[CUT]) as (caller, server):
        backend.script(called(FIND))
        last = strict.response(await caller.create(tools=[docs(server)]))
        output = last["output"][1]["output"]
        assert output.startswith("x" * 900) and len(output) < 1200 and not output.endswith("x")
        assert messages(backend)[-1] == ("tool", output)


async def test_a_server_that_dies_in_mid_call_fails_that_call_alone(serve, backend):
    entered = asyncio.Event()

    async def hang(_):
        entered.set()
        await asyncio.Event().wait()

    async with McpServer(SEARCH) as well, at(serve, Tool("hang", hang)) as (caller, server):
        backend.script(called(("ill__hang", "{}"), FIND))
        tools = [docs(well), docs(server, server_label="ill")]
        asked = asyncio.create_task(caller.events(tools=tools))
        async with asyncio.timeout(servers.PATIENCE):
            await entered.wait()
        await server.die()
        last = strict.stream(await asked)
    ill, well_ = last["output"][2:4]
    assert types(last["output"]) == ["mcp_list_tools", "mcp_list_tools", "mcp_call", "mcp_call", "message"]
    assert (ill["status"], ill["error"]["type"]) == ("failed", "http_error")
    assert (well_["status"], well_["output"]) == ("completed", "found")
