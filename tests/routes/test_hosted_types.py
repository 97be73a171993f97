"""OpenAI's own tool types, run by what the operator bound to them (wire §6.4, §6.6, §9.5, §10.9)."""

import json
from contextlib import AsyncExitStack, asynccontextmanager

from tests.callers import Caller, refusal
from tests.golden.test_golden import golden, renamed
from tests.live import strict
from tests.mcp_servers import McpServer, Tool
from tests.routes.hosted import called, messages, offered, said, types

PAGES = {"results": [{"url": "https://a.example/1", "title": "One", "content": "All quiet in the harbour."}]}
FIND = Tool(
    "find",
    lambda _: json.dumps(PAGES),
    schema={"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
)
RUN = Tool(
    "run",
    lambda _: "4\n",
    schema={"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]},
)
NEWS = ("web_search", '{"query":"news"}')


@asynccontextmanager
async def bound(serve):
    """(a caller of a server that runs searches and code on an MCP server of the operator's, that one)."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(McpServer(FIND, RUN))
        options = ["--web-search=mcp:own/find", "--file-search=mcp:own/find", "--code-interpreter=mcp:own/run"]
        url = await serve(f"--connector=own={server.url}", *options)
        yield await stack.enter_async_context(Caller(url)), server


async def test_a_search_is_the_golden_one(serve, backend):
    async with bound(serve) as (caller, server):
        backend.script(called(NEWS, usage={"prompt_tokens": 100, "completion_tokens": 2}, model="mock-model"))
        backend.script(said("All quiet.", usage={"prompt_tokens": 200, "completion_tokens": 3}, model="mock-model"))
        tools = [{"type": "web_search", "search_context_size": "medium"}]
        events = await caller.events("Go on", model="mock-model", tools=tools)
        strict.stream(events)
        assert renamed(events) == renamed(golden("web_search"))
        assert server.calls == [("find", {"query": "news"})]
        assert "[1] One" in messages(backend)[-1][1]


async def test_what_was_found_is_cited_in_this_turn_and_in_later_ones(serve, backend):
    async with bound(serve) as (caller, server):
        tools, include = [{"type": "web_search"}], ["web_search_call.action.sources"]
        backend.script(called(NEWS))
        backend.script(said("Quiet [1]."))
        first = strict.stream(await caller.events(tools=tools, include=include))
        search, message = first["output"]
        assert search["action"]["sources"] == [{"type": "url", "url": "https://a.example/1"}]
        cited = message["content"][0]["annotations"]
        assert [(one["type"], one["url"], one["title"]) for one in cited] == [
            ("url_citation", "https://a.example/1", "One")
        ]
        backend.script(called(NEWS))
        backend.script(said("Still [1], and so [2]."))
        second = strict.stream(await caller.events(tools=tools, previous_response_id=first["id"]))
        assert len(second["output"][1]["content"][0]["annotations"]) == 2
        assert [text[:3] for role, text in messages(backend) if role == "tool"] == ["[1]", "[2]"]
        for path in (f"/responses/{second['id']}", f"/responses/{second['id']}/input_items"):
            assert "harbour" not in json.dumps(await caller.get(path))


async def test_code_runs_and_its_output_is_read(serve, backend):
    async with bound(serve) as (caller, server):
        backend.script(called(("code_interpreter", '{"code":"print(2+2)"}')))
        tools = [{"type": "code_interpreter", "container": {"type": "auto"}}]
        last = strict.stream(await caller.events(tools=tools, include=["code_interpreter_call.outputs"]))
        assert types(last["output"]) == ["code_interpreter_call", "message"]
        assert last["output"][0]["code"] == "print(2+2)"
        assert last["output"][0]["outputs"] == [{"type": "logs", "logs": "4\n"}]
        assert "4" in messages(backend)[-1][1]


async def test_an_unbound_type_and_a_search_without_the_web_are_as_ever(serve, backend, calling):
    tool = {"type": "web_search", "external_web_access": False}
    async with bound(serve) as (caller, server):
        answer = await caller.ask(tools=[tool])
        assert answer.headers["statecar-dropped-tools"] == "web_search"
        assert not offered(backend)
    caller = await calling()
    assert refusal(await caller.ask(tools=[{"type": "file_search", "vector_store_ids": ["vs"]}]))[0] == 400
    mcp = {"type": "mcp", "server_label": "a", "server_url": "https://mcp.example/mcp"}
    assert refusal(await caller.ask(tools=[mcp])) == (400, "unsupported_parameter", "tools[0].type")
    lenient = await calling("--unsupported-tools=drop")
    assert (await lenient.ask(tools=[mcp])).headers["statecar-dropped-tools"] == "mcp"
