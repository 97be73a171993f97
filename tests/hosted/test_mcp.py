"""MCP servers are listed and called, over every transport that servers speak."""

import asyncio
import json
import subprocess
import sys

import mcp_types
import pytest
from starlette.responses import JSONResponse, Response

from proxy.errors import InvalidRequest
from proxy.hosted import open_hosted
from proxy.settings import Settings
from tests.hosted.serving import at, box, hosted
from tests.mcp_servers import Liar, McpServer, Tool, broken

KINDS = {
    "streams": {},
    "json": {"json_response": True},
    "stateless": {"stateless": True},
    "stateless json": {"stateless": True, "json_response": True},
    "sse": {"sse": True},
}
kinds = pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
NOTHING = {"found": [], "outputs": [], "action": None}
ADD = Tool("add", lambda args: str(args["a"] + args["b"]), "Adds", {"type": "object", "required": ["a", "b"]}, True)


def answers(text):
    return {"output": text, "error": None, **NOTHING}


def fails(error):
    return {"output": "", "error": error, **NOTHING}


def result(*content, **rest):
    return {"content": list(content), "isError": False, **rest}


@kinds
async def test_a_server_is_listed_and_called_over_every_transport(options):
    async with McpServer(ADD, Tool("plain", lambda _: "x"), **options) as server, box() as turn:
        assert await turn.list(at(server.url)) == [
            {
                "name": "add",
                "description": "Adds",
                "input_schema": {"type": "object", "required": ["a", "b"]},
                "annotations": {"readOnlyHint": True},
            },
            {"name": "plain", "input_schema": {"type": "object"}},
        ]
        assert await turn.call(at(server.url), "add", '{"a": 1, "b": 2}') == answers("3")
        assert await turn.call(at(server.url), "plain", "") == answers("x")
        assert server.calls == [("add", {"a": 1, "b": 2}), ("plain", {})]


@kinds
async def test_calls_of_a_turn_run_at_the_same_time(options):
    together = asyncio.Barrier(3)

    async def meet(_):
        await together.wait()
        return "met"

    async with McpServer(Tool("meet", meet), **options) as server, box() as turn:
        calls = (turn.call(at(server.url), "meet", "{}") for _ in range(3))
        assert await asyncio.gather(*calls) == [answers("met")] * 3


@kinds
async def test_a_tool_that_fails_is_an_outcome_and_the_session_goes_on(options):
    tools = (Tool("broken", lambda _: broken("The disk is full.")), ADD)
    async with McpServer(*tools, **options) as server, box() as turn:
        text = {"type": "text", "text": "The disk is full."}
        assert await turn.call(at(server.url), "broken", "{}") == fails(
            {"type": "mcp_tool_execution_error", "content": [text]}
        )
        failed = await turn.call(at(server.url), "no such tool", "{}")
        assert failed["error"]["type"] == "mcp_protocol_error" and isinstance(failed["error"]["code"], int)
        assert await turn.call(at(server.url), "add", '{"a": 1, "b": 2}') == answers("3")


@pytest.mark.parametrize("arguments", ["{", "[1]", '"a"', "null", "{} {}", "NaN"])
async def test_arguments_that_are_no_object_are_an_outcome_that_the_model_can_mend(arguments):
    async with McpServer(ADD) as server, box() as turn:
        failed = await turn.call(at(server.url), "add", arguments)
        assert failed["error"]["type"] == "mcp_tool_execution_error"
        assert "no JSON object" in failed["error"]["content"][0]["text"]
        assert server.requests == []


@kinds
async def test_arguments_that_cannot_be_written_harm_no_other_call(options):
    async with McpServer(Tool("plain", lambda given: given["q"]), **options) as server, box() as turn:
        assert await turn.call(at(server.url), "plain", '{"q": "a\\ud800b\\ud83d\\ude00"}') == answers("a?b😀")
        failed = await turn.call(at(server.url), "plain", '{"q": ' + "[" * 300 + "]" * 300 + "}")
        assert failed["error"]["content"][0]["text"] == "The arguments are nested too deeply: write them again."
        assert await turn.call(at(server.url), "plain", '{"q": "x"}') == answers("x")
        assert [given for _, given in server.calls] == [{"q": "a?b😀"}, {"q": "x"}]


async def test_a_session_costs_as_few_messages_as_the_protocol_allows():
    async with McpServer(ADD) as server, hosted() as served:
        for _ in range(2):
            turn = served.box("caller")
            await turn.list(at(server.url))
            await turn.call(at(server.url), "add", '{"a": 1, "b": 2}')
            turn.close()
        await served.aclose()
        greeting = ["POST", "POST"]  # initialize, initialized
        assert [method for method, _ in server.requests] == [*greeting, "POST", "POST", "DELETE"] * 2


async def test_what_a_server_is_sent_is_what_the_request_gives_for_it():
    given = {"X-Team": "a", "Authorization": "lost"}
    async with McpServer(ADD) as server, box() as turn:
        await turn.list(at(server.url, headers=given, authorization="token"))
        await turn.list(at(server.url, headers=given))
        turn.close()
        await turn.hosted.aclose()
        first, second = [], []
        for _, headers in server.requests:
            assert headers["x-team"] == "a"
            assert headers["accept-encoding"] == "identity"
            assert headers["user-agent"].startswith("statecar/")
            assert "cookie" not in headers
            (first if headers["authorization"] == "Bearer token" else second).append(headers["authorization"])
        assert len(first) == len(second) and set(second) == {"lost"}


async def test_a_connector_is_sent_the_operators_token_unless_the_caller_has_one():
    async with McpServer(ADD) as server:
        options = {"connector": (f"notes={server.url}",), "connector_authorization": ("notes=operator",)}
        async with box(mcp_allow=(), **options) as turn:
            tool = {"type": "mcp", "server_label": "n", "connector_id": "notes"}
            await turn.list(tool)
            await turn.list({**tool, "authorization": "Basic caller"})
            assert (await turn.ask_connector("notes", "add", {"a": 1, "b": 2})).text == "3"
            assert [tool["name"] for tool in await turn.connector_tools("notes")] == ["add"]
        sent = [headers["authorization"] for _, headers in server.requests]
        assert set(sent) == {"Bearer operator", "Basic caller"}
        assert sent[0] == "Bearer operator"


async def test_the_old_transport_is_found_out_once_and_not_at_all_where_it_is_named():
    tool = {"type": "mcp", "server_label": "n", "connector_id": "old"}
    async with McpServer(ADD, sse=True) as server:
        async with hosted(connector=(f"old=sse+{server.url}",)) as served:
            for asked, first in ((at(server.url), "POST"), (at(server.url), "GET"), (tool, "GET")):
                server.requests.clear()
                turn = served.box("caller")
                await turn.list(asked)
                turn.close()
                assert server.requests[0][0] == first


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("code", [-32022, -32601])
async def test_a_server_that_knows_only_the_protocol_of_2026_is_greeted_in_its_way(status, code):
    error = {"code": code, "message": "no", "data": {"supported": ["2026-07-28"], "requested": "2025-11-25"}}
    about = {"supportedVersions": ["2026-07-28"], "capabilities": {}, "resultType": "complete"}
    cache = {"ttlMs": 0, "cacheScope": "private", "resultType": "complete"}
    said = {
        "initialize": lambda _: JSONResponse({"jsonrpc": "2.0", "id": 1, "error": error}, status),
        "server/discover": {**about, **cache},
        "tools/list": {"tools": [{"name": "x", "inputSchema": {"type": "object"}}], **cache},
    }
    async with Liar(said) as server, hosted() as served:
        for _ in range(2):
            turn = served.box("caller")
            assert [tool["name"] for tool in await turn.list(at(server.url))] == ["x"]
            turn.close()
        sent = [message["method"] for message in server.requests]
        assert sent == ["initialize", "server/discover", "tools/list", "server/discover", "tools/list"]


async def test_a_session_that_the_server_has_forgotten_is_begun_anew():
    forgotten = [True, False]
    said = {
        "tools/call": lambda _: (
            Response(status_code=404) if forgotten.pop(0) else result({"type": "text", "text": "here"})
        )
    }
    async with Liar(said) as server, box() as turn:
        assert await turn.call(at(server.url), "x", "{}") == answers("here")
        greeting = ["initialize", "notifications/initialized"]
        assert [message["method"] for message in server.requests] == [*greeting, "tools/call"] * 2


async def test_a_tool_whose_arguments_travel_as_headers_is_looked_up_and_called_again():
    cache = {"ttlMs": 0, "cacheScope": "private", "resultType": "complete"}
    schema = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "region"}}}

    def call(_):
        if server.requests[-2]["method"] != "tools/list":
            error = {"code": mcp_types.HEADER_MISMATCH, "message": "Mcp-Param-Region is missing"}
            return JSONResponse({"jsonrpc": "2.0", "id": server.requests[-1]["id"], "error": error}, 400)
        return {**result({"type": "text", "text": "here"}), "resultType": "complete"}

    said = {
        "initialize": None,
        "server/discover": {"supportedVersions": ["2026-07-28"], "capabilities": {}, **cache},
        "tools/list": {"tools": [{"name": "x", "inputSchema": schema}], **cache},
        "tools/call": call,
    }
    async with Liar(said) as server, box() as turn:
        assert await turn.call(at(server.url), "x", '{"region": "eu"}') == answers("here")
        assert [message["method"] for message in server.requests][-3:] == ["tools/call", "tools/list", "tools/call"]


BLOCKS = [
    ([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], {}, "one\ntwo"),
    ([], {}, ""),
    ([], {"structuredContent": {"a": [1, "ü"]}}, '{"a":[1,"ü"]}'),
    ([{"type": "text", "text": "one"}], {"structuredContent": {"a": 1}}, "one"),
    ([{"type": "image", "data": "AAAA", "mimeType": "image/png"}], {}, "[image, image/png: 3 bytes, not shown]"),
    ([{"type": "audio", "data": "AAAAAAAA", "mimeType": "audio/wav"}], {}, "[audio, audio/wav: 6 bytes, not shown]"),
    ([{"type": "resource", "resource": {"uri": "file:///a", "text": "of a file"}}], {}, "of a file"),
    (
        [{"type": "resource", "resource": {"uri": "file:///a", "blob": "AAAA"}}],
        {},
        "[resource file:///a: not text, not shown]",
    ),
    ([{"type": "resource_link", "name": "a", "uri": "file:///a"}], {}, "[link to a: file:///a]"),
]


@pytest.mark.parametrize(("blocks", "rest", "text"), BLOCKS, ids=range(len(BLOCKS)))
async def test_a_result_of_any_form_is_text(blocks, rest, text):
    async with Liar({"tools/call": result(*blocks, **rest)}) as server, box() as turn:
        assert await turn.call(at(server.url), "x", "{}") == answers(text)


async def test_output_above_the_limit_is_cut_and_says_so():
    async with McpServer(Tool("long", lambda _: "ü" * 600)) as server, box(tool_output_limit=101) as turn:
        output = (await turn.call(at(server.url), "long", "{}"))["output"]
        assert output == "ü" * 50 + "\n[cut here: 1100 of 1200 bytes are above this server's limit]"


@pytest.mark.parametrize(
    ("said", "cut"),
    [
        (result({"type": "text", "text": "x" * 600}, isError=True), lambda error: error["content"][0]["text"]),
        (
            lambda _: JSONResponse({"jsonrpc": "2.0", "id": 2, "error": {"code": -32001, "message": "x" * 600}}),
            lambda error: error["message"],
        ),
    ],
    ids=["of the tool", "of the protocol"],
)
async def test_so_is_an_error(said, cut):
    async with Liar({"tools/call": said}) as server, box(tool_output_limit=101) as turn:
        told = (await turn.call(at(server.url), "x", "{}"))["error"]
        assert cut(told) == "x" * 101 + "\n[cut here: 499 of 600 bytes are above this server's limit]"


@pytest.mark.parametrize("sse", [False, True])
async def test_a_call_that_takes_too_long_is_an_outcome_and_the_server_is_told_to_stop(sse):
    stopped = asyncio.Event()

    async def hang(_):
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with McpServer(Tool("hang", hang), ADD, sse=sse) as server, box() as turn:
        await turn.list(at(server.url))
        turn.hosted.timeout = 0.1
        assert await turn.call(at(server.url), "hang", "{}") == fails(
            {"type": "http_error", "code": 504, "message": "The tool did not answer within 0.1 seconds."}
        )
        turn.hosted.timeout = 20.0
        async with asyncio.timeout(20):
            await stopped.wait()
        assert await turn.call(at(server.url), "add", '{"a": 1, "b": 2}') == answers("3")


async def test_every_turn_has_a_session_of_its_own():
    async with McpServer(ADD) as server, hosted() as served:
        turns = [served.box("a"), served.box("b")]
        for turn in turns:
            await turn.list(at(server.url))
        for turn in turns:
            await turn.call(at(server.url), "add", '{"a": 1, "b": 2}')
        ids = {headers["mcp-session-id"] for _, headers in server.requests if "mcp-session-id" in headers}
        assert len(ids) == 2


# -- what may be asked


@pytest.mark.parametrize(
    ("options", "tool", "param", "words"),
    [
        ({"mcp_allow": ()}, at("http://a/"), "tools[3].type", "--connector, or allows hosts with --mcp-allow"),
        ({"mcp_allow": ("a",)}, at("http://b/"), "tools[3].server_url", "names b:80, which is not allowed here"),
        ({"mcp_allow": ("*",)}, at("http://169.254.169.254/"), "tools[3].server_url", "never asked"),
        ({"mcp_allow": ("*",)}, at("http://127.0.0.1/"), "tools[3].server_url", "--mcp-private"),
        ({"mcp_allow": ("*",)}, at("http://0x7f000001/"), "tools[3].server_url", "addresses are written as"),
        (
            {"mcp_allow": (), "connector": ("notes=http://n/",)},
            at("http://a/"),
            "tools[3].server_url",
            "Use a 'connector_id': notes.",
        ),
        (
            {"connector": ("notes=http://n/",)},
            {"type": "mcp", "server_label": "x", "connector_id": "mail"},
            "tools[3].connector_id",
            "no connector 'mail'. It has notes.",
        ),
        (
            {},
            {"type": "mcp", "server_label": "x", "connector_id": "mail"},
            "tools[3].connector_id",
            "no connector 'mail'. It has none.",
        ),
        (
            {"connector": ("notes=http://n/",)},
            {"type": "mcp", "server_label": "x", "connector_id": "notes", "headers": {"x-user": "root"}},
            "tools[3].headers",
            "'authorization'",
        ),
    ],
)  # fmt: skip
async def test_a_tool_that_may_not_be_used_is_refused_before_anything_is_sent(options, tool, param, words):
    async with hosted(**options) as served:
        with pytest.raises(InvalidRequest) as caught:
            served.check(tool, "tools[3]")
        assert caught.value.param == param
        assert words in caught.value.message


async def test_without_the_extra_a_tool_is_refused_with_its_name(monkeypatch):
    monkeypatch.delitem(sys.modules, "proxy.hosted.mcp", raising=False)
    monkeypatch.setitem(sys.modules, "mcp.client.session", None)
    monkeypatch.setitem(sys.modules, "mcp", None)
    async with hosted() as served:
        assert served.serves_mcp
        with pytest.raises(InvalidRequest, match=r"statecar\[mcp\] is not installed: pip install '\.\[mcp\]'"):
            served.check(at("http://127.0.0.1/"), "tools[0]")
    with pytest.raises(InvalidRequest, match=r"--mcp-allow; both need the extra statecar\[mcp\]"):
        open_hosted(Settings(upstream="demo")).check(at("http://127.0.0.1/"), "tools[0]")


def test_the_sdk_is_loaded_only_where_a_server_may_be_asked():
    code = (
        "import sys, proxy.app\n"
        "from proxy.hosted import open_hosted\n"
        "from proxy.settings import Settings\n"
        "served = open_hosted(Settings(upstream='demo'))\n"
        "print(served.serves_mcp, sorted({'mcp', 'httpx2', 'pydantic'} & sys.modules.keys()))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False []\n"


async def test_nothing_secret_is_logged(caplog):
    caplog.set_level("DEBUG")
    secrets = ["canary-token", "canary-header", "canary-query", "canary-argument", "canary-output", "canary-user"]
    tool = {"authorization": "canary-token", "headers": {"x-key": "canary-header"}}
    async with McpServer(Tool("say", lambda _: "canary-output")) as server, box() as turn:
        asked = at(f"{server.url}?key=canary-query", **tool)
        await turn.list(asked)
        await turn.call(asked, "say", json.dumps({"x": "canary-argument"}))
        await server.die()
        await turn.call(asked, "say", json.dumps({"x": "canary-argument"}))
    ours = [record for record in caplog.records if not record.name.startswith(("mcp.server", "sse_starlette"))]
    text = "\n".join(f"{record.name} {record.getMessage()} {record.exc_text}" for record in ours)
    assert "mcp docs at 127.0.0.1" in text
    assert not [secret for secret in secrets if secret in text]
    assert mcp_types.__name__ not in text
