"""Types that MCP tools run, on real MCP servers: what the tool is called with, what its answer comes to."""

import asyncio
import json
import sys
from contextlib import asynccontextmanager

import mcp_types
import pytest

from proxy.hosted import open_hosted
from proxy.settings import Settings
from tests.mcp_servers import McpServer, Tool, broken

QUERY = {"type": "object", "properties": {"query": {"type": "string"}, "limit": {"type": "integer"}}}
ROWS = [
    {"title": "Page A", "url": "https://a.example/1", "content": "About a."},
    {"title": "Page B", "url": "https://b.example/2", "content": "About b."},
]
PASSAGES = [
    {"id": "file-1", "name": "a.md", "score": 0.2, "text": "Of little use."},
    {"id": "file-2", "name": "b.md", "score": 0.9, "text": "Of use."},
    {"id": "file-2", "name": "b.md", "score": 0.9, "text": "Of use."},
]


@asynccontextmanager
async def bound(type_, run, *, schema=QUERY, name="tool", **options):
    """(server, call): a server whose tool runs a type, and the type's outcome for a request's tool and arguments."""
    async with McpServer(Tool("tool", run, schema=schema)) as server:
        bindings = {type_: f"mcp:lib/{name}"}
        hosted = open_hosted(Settings(upstream="demo", connector=(f"lib={server.url}",), **bindings, **options))
        box = hosted.box("")

        async def call(tool, **arguments):
            return await box.run(type_, {"type": type_, **tool}, arguments)

        try:
            yield server, call
        finally:
            box.close()
            await hosted.aclose()


async def test_a_web_search_by_an_mcp_tool():
    async with bound("web_search", lambda _: json.dumps({"results": ROWS})) as (server, call):
        outcome = await call({"search_context_size": "low", "filters": {"allowed_domains": ["b.example"]}}, query="b")
        assert server.calls == [("tool", {"query": "b", "limit": 5})]
        page = {"url": "https://b.example/2", "title": "Page B", "text": "About b."}
        assert outcome == {"output": "", "error": None, "found": [page], "outputs": [], "action": None}
        await call({}, query="c")
        assert server.listings == 1, "the tool's schema is asked for once in a while"
        nothing = await call({"filters": {"allowed_domains": ["c.example"]}}, query="c")
        assert (nothing["output"], nothing["error"], nothing["found"]) == ("No results.", None, [])


async def test_structured_content_goes_before_its_text():
    result = mcp_types.CallToolResult(
        content=[mcp_types.TextContent(text="two pages")], structured_content={"result": ROWS}
    )
    async with bound("web_search", lambda _: result) as (_, call):
        assert [page["title"] for page in (await call({}, query="a"))["found"]] == ["Page A", "Page B"]


async def test_an_answer_in_words_is_read_as_it_is():
    async with bound("web_search", lambda _: "It is cold. " * 100, tool_output_limit=200) as (_, call):
        outcome = await call({}, query="a")
    assert outcome["output"].startswith("It is cold. It") and "cut here" in outcome["output"]
    assert outcome["found"] == [] and outcome["error"] is None


async def test_a_file_search_by_an_mcp_tool():
    async with bound("file_search", lambda _: json.dumps(PASSAGES)) as (server, call):
        outcome = await call({"vector_store_ids": ["vs_1"]}, queries=["use", " ", "no use", 5])
        assert sorted(server.calls, key=str) == [
            ("tool", {"query": "no use", "limit": 10}),
            ("tool", {"query": "use", "limit": 10}),
        ]
        assert [(f["file_id"], f["filename"], f["score"], f["text"], f["attributes"]) for f in outcome["found"]] == [
            ("file-2", "b.md", 0.9, "Of use.", {}),
            ("file-1", "a.md", 0.2, "Of little use.", {}),
        ]
        server.calls.clear()
        await call({}, queries=[str(n) for n in range(20)])
        assert sorted(arguments["query"] for _, arguments in server.calls) == [str(n) for n in range(8)]
        tool = {"vector_store_ids": [], "max_num_results": 1}
        assert [f["file_id"] for f in (await call(tool, queries="use"))["found"]] == ["file-2"]
        tool = {"ranking_options": {"score_threshold": 0.95}}
        assert (await call(tool, queries=["use"]))["output"] == "No results."
        assert "'queries'" in (await call({}, queries=[]))["error"]["message"]


async def test_results_are_what_clients_demand_whatever_the_tool_tells():
    """The AI SDK refuses a whole response whose file search result has no score that is a number."""
    attributes = {"long": "x" * 600, "k" * 65: 1, "deep": {"a": 1}, **{f"n{n}": n for n in range(20)}}
    passages = [{"filename": "a.md", "text": "Of use.", "metadata": attributes}]
    async with bound("file_search", lambda _: json.dumps(passages)) as (_, call):
        (found,) = (await call({}, queries=["use"]))["found"]
    assert found["score"] == 0.0 and isinstance(found["score"], float)
    assert found["attributes"] == {"long": "x" * 512, **{f"n{n}": n for n in range(15)}}


@pytest.mark.parametrize("has_filters", [True, False])
async def test_files_are_filtered_here_where_the_tool_cannot(has_filters):
    passages = [{**passage, "attributes": {"n": n}} for n, passage in enumerate(PASSAGES[:2])]
    properties = {"query": {"type": "string"}} | ({"filters": {"type": "object"}} if has_filters else {})
    schema = {"type": "object", "properties": properties}
    filters = {"type": "eq", "key": "n", "value": 0}
    async with bound("file_search", lambda _: json.dumps(passages), schema=schema) as (server, call):
        outcome = await call({"filters": filters}, queries=["use"])
        assert server.calls == [("tool", {"query": "use"} | ({"filters": filters} if has_filters else {}))]
        assert [f["file_id"] for f in outcome["found"]] == (["file-2", "file-1"] if has_filters else ["file-1"])


async def test_one_search_of_several_may_fail():
    def run(arguments):
        return broken() if arguments["query"] == "bad" else json.dumps(PASSAGES)

    async with bound("file_search", run) as (_, call):
        outcome = await call({}, queries=["bad", "good"])
        assert outcome["error"] is None and len(outcome["found"]) == 2
        outcome = await call({}, queries=["bad"])
        assert outcome["output"] == "The tool failed: The disk is full."
        assert outcome["error"]["type"] == "mcp_tool_execution_error"


async def test_code_is_run_by_an_mcp_tool():
    schema = {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]}
    async with bound("code_interpreter", lambda a: f"ran {a['code']}\n", schema=schema) as (server, call):
        outcome = await call({"container": {"type": "auto"}}, code="1+1")
        assert server.calls == [("tool", {"code": "1+1"})]
        assert outcome["outputs"] == [{"type": "logs", "logs": "ran 1+1\n"}]
        assert (outcome["output"], outcome["error"]) == ("ran 1+1\n", None)
        assert (await call({}, code=" "))["error"]["code"] == 400
        assert len(server.calls) == 1
    async with bound("code_interpreter", lambda _: "\n", schema=schema) as (_, call):
        outcome = await call({}, code="pass")
        assert (outcome["output"], outcome["outputs"]) == ("(no output)", [])
    plot, huge = mcp_types.ImageContent(data="aGk=", mime_type="image/png"), "A" * 1024 * 1024
    drawn = [plot, mcp_types.ImageContent(data=huge, mime_type="image/png"), mcp_types.TextContent(text="done")]
    async with bound("code_interpreter", lambda _: mcp_types.CallToolResult(content=drawn), schema=schema) as (_, call):
        logs, image = (await call({}, code="plot()"))["outputs"]
        assert image == {"type": "image", "url": "data:image/png;base64,aGk="}
        assert logs["logs"].endswith("\n[image, image/png: 786432 bytes, not shown]\ndone")
    async with bound("code_interpreter", lambda _: broken("Traceback"), schema=schema) as (_, call):
        outcome = await call({}, code="oh")
        assert outcome["output"] == "The tool failed: Traceback" and outcome["error"]


ARGUMENTS = {"web_search": {"query": "a"}, "file_search": {"queries": ["a"]}, "code_interpreter": {"code": "a"}}


@pytest.mark.parametrize("type_", ARGUMENTS)
async def test_what_the_operator_bound_wrongly_is_a_failed_outcome_that_says_so(type_, caplog):
    async with bound(type_, str, name="other") as (server, call):
        outcome = await call({}, **ARGUMENTS[type_])
        assert outcome["error"]["type"] == "http_error" and "has no tool 'other'" in outcome["output"]
    async with bound(type_, str, schema={"type": "object"}) as (server, call):
        outcome = await call({}, **ARGUMENTS[type_])
        assert "takes no argument for it" in outcome["output"]
        assert server.calls == []
        await server.die()
    async with bound(type_, str) as (server, call):
        await server.die()
        outcome = await call({}, **ARGUMENTS[type_])
        assert outcome["error"]["code"] == 503 and "could not be asked. It could not be reached: " in outcome["output"]
    assert "mcp:lib/tool: The tool server that is bound here could not be asked. It could not" in caplog.text


async def test_without_the_sdk_no_mcp_tool_is_bound(monkeypatch):
    monkeypatch.setitem(sys.modules, "mcp.client.session", None)
    monkeypatch.delitem(sys.modules, "proxy.hosted.mcp", raising=False)
    options = {"connector": ("lib=http://127.0.0.1/mcp",), "file_search": "mcp:lib/tool"}
    hosted = open_hosted(Settings(upstream="demo", web_search="searxng+http://127.0.0.1", **options))
    assert hosted.missing and hosted.types == {"web_search"}


async def test_a_tool_that_takes_too_long_is_a_failed_outcome():
    over = asyncio.Event()
    async with bound("web_search", lambda _: over.wait(), tool_timeout=0.3) as (server, call):
        outcome = await call({}, query="a")
        assert outcome["error"]["code"] == 504
        assert outcome["found"] == []
        over.set()
