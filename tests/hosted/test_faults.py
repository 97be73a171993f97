"""MCP servers that are down, slow, lying or dying: each becomes an error in words, and nothing is left behind."""

import asyncio
import gc
import json
import os
import socket
import tracemalloc
from contextlib import asynccontextmanager

import pytest
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse

from proxy.errors import InvalidRequest, ToolServerError
from tests.backend import CLOSE, RESET, serving
from tests.hosted.serving import at, box, hosted
from tests.mcp_servers import Liar, McpServer, Tool, sample
from tests.servers import free_port

OBJECT = {"type": "object"}
ABOUT = {"name": "x", "version": "1"}
HTML = HTMLResponse("<html>canary</html>")


def tools(*names, schema=OBJECT):
    return {"tools": [{"name": name, "inputSchema": schema} for name in names]}


def refusal(code, status=200, words="no"):
    return JSONResponse({"jsonrpc": "2.0", "id": 2, "error": {"code": code, "message": words}}, status)


LISTING_FAULTS = {
    "not found": ({"initialize": lambda _: Response(status_code=404)}, "Http status code: 404 (Not Found)."),
    "unauthorized": ({"initialize": lambda _: Response(status_code=401)}, "Http status code: 401 (Unauthorized)."),
    "unauthorized, in JSON": (
        {"initialize": lambda _: JSONResponse({"error": "invalid_token"}, 401)},
        "Http status code: 401 (Unauthorized).",
    ),
    "later unauthorized": ({"tools/list": lambda _: Response(status_code=403)}, "Http status code: 403 (Forbidden)."),
    "broken": ({"initialize": lambda _: Response(status_code=500)}, "Http status code: 500 (Internal Server Error)."),
    "odd status": ({"initialize": lambda _: Response(status_code=599)}, "Http status code: 599."),
    "a page": ({"initialize": lambda _: HTML}, "It answered with error -32600: Unexpected content type"),
    "no JSON": (
        {"initialize": lambda _: Response("{", media_type="application/json")},
        "Its answer is no message of JSON-RPC.",
    ),
    "another version": (
        {"initialize": {"protocolVersion": "1999-01-01", "capabilities": {}, "serverInfo": ABOUT}},
        "It is no MCP server, or speaks another version.",
    ),
    "no welcome": ({"initialize": {}}, "Its answer is not as MCP has it: "),
    "an error": (
        {"tools/list": lambda _: refusal(-32000)},
        "It answered with error -32000: no",
    ),
    "an error with a status": (
        {"tools/list": lambda _: refusal(-32602, 400)},
        "It answered with error -32602: no",
    ),
    "no list": ({"tools/list": {"tools": 1}}, "Its answer is not as MCP has it: tools: "),
    "no names": (
        {"tools/list": {"tools": [{"inputSchema": OBJECT}]}},
        "Its answer is not as MCP has it: tools.0.name: ",
    ),
    "a schema that is a text": ({"tools/list": tools("a", schema="x")}, "Its answer is not as MCP has it: "),
    "too many": ({"tools/list": tools(*map(str, range(1001)))}, "It lists more than is taken: 1000 tools"),
    "too large": ({"tools/list": tools("a", schema={**OBJECT, "x": "x" * 1024 * 1024})}, "It lists more than is taken"),
    "without end": (
        {"tools/list": lambda params: {**tools(), "nextCursor": str(int((params or {}).get("cursor", "0")) + 1)}},
        "Its list of tools does not end within 100 pages.",
    ),
    "in a circle": ({"tools/list": {**tools(), "nextCursor": "x"}}, "Its list of tools does not end"),
    "compressed": (
        {"tools/list": lambda _: Response(b"\x1f\x8b", headers={"content-encoding": "gzip"})},
        "It sent a compressed answer, which was not asked for.",
    ),
    "accepted only": ({"tools/list": lambda _: Response(status_code=202)}, "It answered with error -32600"),
    "an empty stream": (
        {"tools/list": lambda _: Response("", media_type="text/event-stream")},
        "The connection broke.",
    ),
    "nonsense in a stream": (
        {"tools/list": lambda _: Response("data: {\n\n", media_type="text/event-stream")},
        "Its answer is no message of JSON-RPC.",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("said", "words"), LISTING_FAULTS.values(), ids=LISTING_FAULTS)
async def test_a_server_that_does_not_list_is_an_error_in_words(said, words):
    async with Liar(said) as server, box() as turn:
        with pytest.raises(ToolServerError) as caught:
            await turn.list(at(server.url + "?key=canary"))
        assert caught.value.message.startswith(f"Error retrieving tool list from MCP server: 'docs'. {words}")
        assert "canary" not in caught.value.message
        assert (caught.value.status, caught.value.type, caught.value.code, caught.value.param) == (
            424,
            "external_connector_error",
            "http_error",
            "tools",
        )


async def test_what_all_servers_of_a_turn_list_is_held_to_one_bound():
    large = {**OBJECT, "x": "x" * 1000 * 1000}
    async with Liar({"tools/list": tools("a", schema=large)}) as server, box() as turn:
        for label in "abcd":
            assert len(await turn.list(at(server.url, server_label=label))) == 1
        with pytest.raises(ToolServerError, match="It and other servers list more than is taken: 4096 KiB together."):
            await turn.list(at(server.url, server_label="e"))


async def test_a_list_that_goes_in_a_circle_is_left_at_once():
    async with Liar({"tools/list": {**tools(), "nextCursor": "x"}}) as server, box() as turn:
        with pytest.raises(ToolServerError):
            await turn.list(at(server.url))
        assert [message["method"] for message in server.requests].count("tools/list") == 2


async def test_all_pages_of_a_list_together_are_held_to_what_one_answer_may_hold():
    pages = iter(range(10))
    junk = tools("x" * 200_000)["tools"] * 10

    def page(_):
        return {"tools": junk, "nextCursor": str(next(pages))}

    async with Liar({"tools/list": page}) as server, box() as turn:
        with pytest.raises(ToolServerError, match="more than 4 MiB"):
            await turn.list(at(server.url))
    assert next(pages) == 3


async def test_what_is_unusable_in_a_list_is_left_out(caplog):
    listed = [
        {"name": "good", "inputSchema": OBJECT},
        {"name": "good", "inputSchema": OBJECT, "description": "another"},
        {"name": "", "inputSchema": OBJECT},
        {"name": "a b", "inputSchema": OBJECT},
        {"name": "x" * 129, "inputSchema": OBJECT},
        {"name": "größer", "inputSchema": OBJECT},
    ]
    async with Liar({"tools/list": {"tools": listed}}) as server, box() as turn:
        assert [tool["name"] for tool in await turn.list(at(server.url))] == ["good", "größer"]
    assert "4 listed tools are unusable or listed twice" in caplog.text


async def test_a_list_of_pages_is_one_list():
    pages = {None: {**tools("a"), "nextCursor": "x"}, "x": {**tools("b"), "nextCursor": ""}, "": tools("c")}
    said = {"tools/list": lambda params: pages[(params or {}).get("cursor")]}
    async with Liar(said) as server, box() as turn:
        assert [tool["name"] for tool in await turn.list(at(server.url))] == ["a", "b", "c"]


def error(code, words):
    return {"type": "http_error", "code": code, "message": f"MCP server 'docs': {words}"}


CALL_FAULTS = {
    "unauthorized": (lambda _: Response(status_code=401), error(401, "Http status code: 401 (Unauthorized).")),
    "forgetful": (lambda _: Response(status_code=404), error(404, "It has forgotten the session.")),
    "broken": (lambda _: Response("canary", 500), error(500, "Http status code: 500 (Internal Server Error).")),
    "elsewhere": (
        lambda _: RedirectResponse("http://canary.test/mcp"),
        error(307, "Http status code: 307 (Temporary Redirect)."),
    ),
    "lying": ({"content": "canary"}, error(502, "Its answer is not as MCP has it: ")),
    "lying at length": ({"content": [{"type": "canary"}] * 500}, error(502, "Its answer is not as MCP has it: it has")),
    "half a letter": (
        lambda _: Response('{"jsonrpc": "2.0", "id": 2, "result": "canary \\ud800"}', media_type="application/json"),
        error(502, "Its answer is no message of JSON-RPC."),
    ),
}


@pytest.mark.parametrize(("said", "told"), CALL_FAULTS.values(), ids=CALL_FAULTS)
async def test_a_call_that_is_not_answered_is_a_failed_outcome(said, told):
    async with Liar({"tools/call": said}) as server, box() as turn:
        failed = (await turn.call(at(server.url), "x", "{}"))["error"]
        assert failed["message"].startswith(told["message"]) and "canary" not in failed["message"]
        assert failed | {"message": ""} == told | {"message": ""}


@pytest.mark.parametrize("script", [[CLOSE], [RESET], [b"HTTP/1.1 200 OK\r\n", CLOSE], [b"nonsense\r\n\r\n", CLOSE]])
async def test_a_server_that_hangs_up_is_an_error_in_words(backend, script):
    for _ in range(3):
        backend.script(*script)
    async with box() as turn:
        with pytest.raises(ToolServerError, match="The connection broke|could not be reached"):
            await turn.list(at(backend.url))


async def test_a_server_that_is_down_is_an_error_in_words():
    url = f"http://127.0.0.1:{free_port()}/mcp"
    async with box() as turn:
        why = "It could not be reached: the connection was refused, so nothing listens at that port."
        with pytest.raises(ToolServerError, match=why):
            await turn.list(at(url))
        assert (await turn.call(at(url), "x", "{}"))["error"] == error(502, why)


@pytest.mark.parametrize("by", ["url", "connector"])
async def test_https_to_a_server_of_http_is_an_error_that_says_so(by, caplog):
    async with Liar({"tools/list": tools("a")}) as server:
        url = server.url.replace("http:", "https:")
        async with box(connector=(f"docs={url}",)) as turn:
            with pytest.raises(ToolServerError, match="It could not be reached: TLS failed, as where"):
                await turn.list(at(url) if by == "url" else {"server_label": "docs", "connector_id": "docs"})
    line = next(record for record in caplog.records if record.getMessage().startswith("mcp docs at 127.0.0.1:"))
    assert line.levelname == "WARNING" and ", tools/list: http_error in " in line.getMessage()
    assert "It could not be reached: TLS failed" in line.getMessage()


async def test_a_servers_own_words_of_failure_are_told_to_the_caller_and_not_logged(caplog):
    async with Liar({"tools/list": lambda _: refusal(-32000, words="no canary")}) as server, box() as turn:
        with pytest.raises(ToolServerError, match="It answered with error -32000: no canary"):
            await turn.list(at(server.url))
    assert "It answered with error -32000." in caplog.text and "canary" not in caplog.text


async def test_the_log_says_what_a_request_allows_of_a_list(caplog):
    caplog.set_level("INFO")
    async with Liar({"tools/list": tools("a", "b")}) as server, box() as turn:
        for allowed in (["a"], ["typo"], None):
            await turn.list(at(server.url, **({"allowed_tools": allowed} if allowed else {})))
    said = [r.getMessage() for r in caplog.records if ", tools/list: " in r.getMessage()]
    assert [line.partition(", tools/list: ")[2].partition(" in ")[0] for line in said] == [
        "2 tools, 1 of them allowed by the request",
        "2 tools, 0 of them allowed by the request",
        "2 tools",
    ]


@pytest.mark.parametrize("options", [{}, {"sse": True}], ids=["streams", "sse"])
async def test_a_server_that_dies_in_mid_call_fails_that_call_and_is_asked_again_when_it_is_back(options):
    async def hang(_):
        await asyncio.Event().wait()

    async with box() as turn:
        server = McpServer(Tool("hang", hang), **options)
        async with server:
            calls = [asyncio.create_task(turn.call(at(server.url), "hang", "{}")) for _ in range(2)]
            await server.called(2)
            await server.die()
            for call in calls:
                failed = (await call)["error"]
                assert failed["type"] == "http_error" and failed["code"] == 502
        with pytest.raises(ToolServerError):
            await turn.list(at(server.url))


@asynccontextmanager
async def deaf(status):
    """A server of the SSE transport that takes no calls; gives its URL."""
    said = asyncio.Queue()

    async def app(scope, receive, send):
        if scope["method"] == "GET":
            return await StreamingResponse(stream(), media_type="text/event-stream")(scope, receive, send)
        message = await Request(scope, receive).json()
        if message["method"] == "initialize":
            about = {"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": ABOUT}
            said.put_nowait({"jsonrpc": "2.0", "id": message["id"], "result": about})
        taken = status if message["method"] == "tools/call" else 202
        await Response(status_code=taken)(scope, receive, send)

    async def stream():
        yield "event: endpoint\ndata: /messages\n\n"
        while True:
            yield f"event: message\ndata: {json.dumps(await said.get())}\n\n"

    async with serving(app, interface="asgi3") as root:
        yield f"{root}/sse"


@pytest.mark.parametrize(("status", "words"), [(500, "Http status code: 500"), (404, "It has forgotten the session.")])
async def test_a_call_that_does_not_arrive_over_sse_is_not_waited_for(status, words):
    async with deaf(status) as url, box(mcp_allow=(), connector=(f"c=sse+{url}",)) as turn:
        tool = {"server_label": "docs", "connector_id": "c"}
        for _ in range(2):
            failed = (await turn.call(tool, "x", "{}"))["error"]
            assert failed["code"] == status and words in failed["message"]


# -- how large, and how long


TOO_LARGE = error(502, "Its answer has more than 4 MiB or more than 400000 values.")
BEGUN = b'{"jsonrpc":"2.0","id":3,"result":{"content":[],"structuredContent":{"a":['
FLOODS = {
    "spaces": ("application/json", BEGUN, b" "),
    "small values": ("application/json", BEGUN, b"{},"),
    "one event": ("text/event-stream", b"data: " + BEGUN, b"x"),
    "small values of an event": ("text/event-stream", b"data: " + BEGUN, b"[],"),
    "no lines": ("text/event-stream", b"", b"x"),
}


@pytest.mark.parametrize(("kind", "begun", "more"), FLOODS.values(), ids=FLOODS)
async def test_an_answer_without_end_is_cut_off_and_takes_bounded_memory(kind, begun, more):
    sent = [0]

    async def flood(_=None):
        yield begun
        while True:
            sent[0] += 1
            yield more * (65536 // len(more))
            await asyncio.sleep(0)

    said = {"tools/list": tools(), "tools/call": lambda _: StreamingResponse(flood(), media_type=kind)}
    async with Liar(said) as server, box() as turn:
        await turn.list(at(server.url))
        tracemalloc.start()
        try:
            failed = (await turn.call(at(server.url), "x", "{}"))["error"]
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert failed == TOO_LARGE
        assert sent[0] * 65536 < 16 * 1024 * 1024
        assert peak < 40 * 1024 * 1024


async def test_the_densest_answer_that_is_taken_takes_bounded_memory():
    body = BEGUN + b"{}" + b",{}" * 199_000 + b"]}}}"
    said = {"tools/list": tools(), "tools/call": lambda _: Response(body, media_type="application/json")}
    async with Liar(said) as server, box() as turn:
        await turn.list(at(server.url))
        tracemalloc.start()
        try:
            assert (await turn.call(at(server.url), "x", "{}"))["error"] is None
            assert tracemalloc.get_traced_memory()[1] < 100 * 1024 * 1024
        finally:
            tracemalloc.stop()


async def test_an_answer_of_very_many_values_is_not_read():
    body = BEGUN + b"{}" + b",{}" * 200_000 + b"]}}}"
    assert len(body) < 1024 * 1024
    said = {"tools/call": lambda _: Response(body, media_type="application/json")}
    async with Liar(said) as server, box() as turn:
        assert (await turn.call(at(server.url), "x", "{}"))["error"] == TOO_LARGE


async def test_messages_without_end_are_cut_off():
    """Each is small, and none is the answer."""

    async def chatter():
        note = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x" * 60000}}
        while True:
            yield f"data: {json.dumps(note)}\n\n".encode()
            await asyncio.sleep(0)

    said = {"tools/call": lambda _: StreamingResponse(chatter(), media_type="text/event-stream")}
    async with Liar(said) as server, box() as turn:
        failed = (await turn.call(at(server.url), "x", "{}"))["error"]
        assert failed == TOO_LARGE


async def test_an_answer_that_always_breaks_off_is_not_asked_for_without_end():
    asked = []

    def more(request):
        asked.append(request.headers["last-event-id"])
        return Response(f"id: {len(asked)}\nretry: 0\ndata:\n\n", media_type="text/event-stream")

    first = Response("id: 0\nretry: 0\ndata:\n\n", media_type="text/event-stream")
    async with Liar({"tools/call": lambda _: first, "GET": more}) as server, box() as turn:
        failed = (await turn.call(at(server.url), "x", "{}"))["error"]
    assert failed["message"] == "MCP server 'docs': Its answer breaks off again and again."
    assert asked == [str(number) for number in range(100)]


@pytest.fixture
def silent():
    """A server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"


async def test_a_server_that_says_nothing_is_waited_for_no_longer_than_the_limit(silent):
    async with box(tool_timeout=0.1) as turn:
        with pytest.raises(ToolServerError, match=r"It did not answer within 0\.1 seconds\."):
            await turn.list(at(silent))
        failed = await turn.call(at(silent), "x", "{}")
        assert failed["error"]["code"] == 504


async def test_servers_that_requests_name_have_so_many_sessions_and_the_operators_more(silent, monkeypatch):
    monkeypatch.setattr("proxy.hosted.mcp._MOST_OPEN", 1)
    async with McpServer() as server, box(connector=(f"own={server.url}",)) as turn:
        turn.hosted.sessions.open(turn.hosted.servers.of(at(silent), "tools"))
        with pytest.raises(ToolServerError, match="Too many servers are being asked here at once"):
            await turn.list(at(server.url))
        assert await turn.connector_tools("own")


def files():
    """How many are open; those of what is garbage by now are not."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


async def test_nothing_is_left_of_what_was_given_up(silent):
    """Tasks and sockets, after callers that were cancelled while connecting, or that timed out."""
    async with hosted():
        pass  # what is loaded once has been
    tasks, open_files = asyncio.all_tasks(), files()
    async with hosted() as served:
        turns = [served.box("caller") for _ in range(5)]
        waiting = [asyncio.create_task(turn.list(at(silent))) for turn in turns]
        waiting += [asyncio.create_task(turn.call(at(silent), "x", "{}")) for turn in turns]
        await asyncio.sleep(0.05)
        for task in waiting[::2]:
            task.cancel()
        turns[0].close()
        await asyncio.wait(waiting[::2])
        assert all(task.cancelled() for task in waiting[::2])
    rest = await asyncio.gather(*waiting, return_exceptions=True)
    assert not [one for one in rest if not isinstance(one, BaseException | dict)]
    assert asyncio.all_tasks() == tasks
    assert files() <= open_files


async def test_nothing_is_left_of_sessions_that_were_used():
    with sample() as url:
        tasks, open_files = asyncio.all_tasks(), files()
        async with hosted() as served:
            turns = [served.box("caller") for _ in range(4)]
            for turn in turns:
                await turn.list(at(url))
            calls = [asyncio.create_task(turn.call(at(url), "no such tool", "{}")) for turn in turns]
            await asyncio.sleep(0)
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)
            turns[0].close()
            turns[1].close()
        assert asyncio.all_tasks() == tasks
        assert files() <= open_files


async def test_a_server_that_has_not_answered_the_greeting_is_left_at_once():
    connected, left = asyncio.Event(), asyncio.Event()

    async def listen(reader, writer):
        connected.set()
        await reader.read()
        left.set()
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    async with server, box() as turn:
        port = server.sockets[0].getsockname()[1]
        call = asyncio.create_task(turn.call(at(f"http://127.0.0.1:{port}/mcp"), "x", "{}"))
        await connected.wait()
        turn.close()
        async with asyncio.timeout(10):
            await left.wait()
        assert (await call)["error"] == error(502, "The turn is over.")


async def test_closing_a_turn_does_not_wait_for_a_server_that_says_no_goodbye():
    async def hold(_):
        await asyncio.Event().wait()

    async with McpServer(Tool("hang", hold)) as server, hosted() as served:
        turn = served.box("caller")
        call = asyncio.create_task(turn.call(at(server.url), "hang", "{}"))
        await server.called(1)
        turn.close()
        assert (await call)["error"]["type"] == "http_error"
        assert (await turn.call(at(server.url), "hang", "{}"))["error"] == error(502, "The turn is over.")


# -- where a request may lead


@asynccontextmanager
async def trap(host="127.0.0.2"):
    """A server that must not be asked. ``caught``: how often it was."""
    caught = []

    async def spring(reader, writer):
        caught.append(await reader.read(1))
        writer.close()

    server = await asyncio.start_server(spring, host, 0)
    async with server:
        yield server.sockets[0].getsockname()[1], caught


async def test_a_name_that_leads_elsewhere_the_next_time_is_refused_then(monkeypatch):
    """DNS rebinding: the connection goes to an address that was looked at, and each new one is looked at."""
    monkeypatch.setattr("proxy.hosted.transport._IDLE", 0.0)
    where = ["127.0.0.1"]

    async def resolve(host, port):
        assert host == "mcp.test"
        return where

    async with Liar({"tools/list": tools("x")}) as server, trap() as (_, caught):
        url = server.url.replace("127.0.0.1", "mcp.test")
        async with box(resolve, mcp_allow=("mcp.test",), mcp_private=("127.0.0.1/32",)) as turn:
            assert await turn.list(at(url))
            where[0] = "127.0.0.2"
            refused = (await turn.call(at(url), "x", "{}"))["error"]
            assert "address is not public" in refused["message"] and "127.0.0.2" not in refused["message"]
        assert not caught


async def test_a_name_with_one_private_address_is_refused_before_any_is_asked():
    async def resolve(host, port):
        return ["127.0.0.2", "10.0.0.1"]

    async with trap() as (port, caught):
        async with box(resolve, mcp_allow=("mcp.test",), mcp_private=("127.0.0.0/8",)) as turn:
            with pytest.raises(InvalidRequest, match="address is not public"):
                await turn.list(at(f"http://mcp.test:{port}/mcp"))
        assert not caught


async def test_the_addresses_of_a_name_are_tried_in_order():
    async def resolve(host, port):
        return ["127.0.0.3", "127.0.0.1"]  # nothing listens at the first

    async with Liar({"tools/list": tools("a")}) as server:
        url = server.url.replace("127.0.0.1", "mcp.test")
        async with box(resolve, mcp_allow=("mcp.test",), mcp_private=("127.0.0.0/8",)) as turn:
            assert await turn.list(at(url))


async def test_a_name_that_is_not_known_is_an_error_in_words():
    async def resolve(host, port):
        raise socket.gaierror("Name or service not known")

    async with box(resolve, mcp_allow=("mcp.test",)) as turn:
        with pytest.raises(ToolServerError, match="It could not be reached: its name is not known"):
            await turn.list(at("http://mcp.test/mcp"))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("by", ["url", "connector"])
async def test_a_redirect_to_elsewhere_is_not_followed(status, by):
    async with trap("127.0.0.1") as (port, caught):

        async def app(scope, receive, send):
            await RedirectResponse(f"http://127.0.0.1:{port}/mcp", status)(scope, receive, send)

        async with serving(app, interface="asgi3") as root, box(connector=(f"c={root}/mcp",)) as turn:
            tool = at(f"{root}/mcp") if by == "url" else {"server_label": "docs", "connector_id": "c"}
            with pytest.raises(ToolServerError, match=f"Http status code: {status}"):
                await turn.list(tool)
        assert not caught


@pytest.mark.parametrize("by", ["url", "connector"])
@pytest.mark.parametrize("to", ["//127.0.0.2:{port}/x", "http://127.0.0.2:{port}/x", "{own}@127.0.0.2:{port}/x"])
async def test_nothing_is_sent_to_where_a_server_of_the_old_transport_points(to, by):
    async def app(scope, receive, send):
        where = to.format(port=port, own=url)
        body = f"event: endpoint\ndata: {where}\n\n" if scope["method"] == "GET" else ""
        answer = Response(body, 200 if body else 405, media_type="text/event-stream")
        await answer(scope, receive, send)

    async with trap() as (port, caught), serving(app, interface="asgi3") as url:
        own = {"connector": (f"own=sse+{url}/sse",), "connector_authorization": ("own=canary",)}
        async with box(tool_timeout=0.2, mcp_allow=("127.0.0.1", "127.0.0.2"), **own) as turn:
            named = at(url) if by == "url" else {"type": "mcp", "server_label": "docs", "connector_id": "own"}
            with pytest.raises(ToolServerError):
                await turn.list(named)
        assert not caught


@pytest.mark.parametrize("status", [307, 308])
async def test_a_redirect_within_the_server_is_followed(status):
    async with Liar({"tools/list": tools("a")}) as server:

        async def app(scope, receive, send):
            to = server._app if scope["path"] == "/mcp/" else RedirectResponse("/mcp/", status)
            await to(scope, receive, send)

        async with serving(app, interface="asgi3") as root, box() as turn:
            assert [tool["name"] for tool in await turn.list(at(f"{root}/mcp"))] == ["a"]


async def test_proxies_of_the_environment_are_for_the_operators_servers_alone(monkeypatch, backend):
    monkeypatch.setenv("http_proxy", backend.url.removesuffix("/v1"))
    async with McpServer() as server:
        async with box(connector=("c=http://mcp.internal/mcp",)) as turn:
            await turn.list(at(server.url))
            assert not backend.requests
            with pytest.raises(ToolServerError):
                await turn.list({"server_label": "c", "connector_id": "c"})
            assert backend.requests[0].target == "http://mcp.internal/mcp"


async def test_operators_servers_need_no_permission(backend):
    async with McpServer() as server, box(mcp_allow=(), connector=(f"c={server.url}",)) as turn:
        assert await turn.list({"server_label": "c", "connector_id": "c"})
