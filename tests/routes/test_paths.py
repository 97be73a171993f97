"""Which paths are ours, and that no trick of spelling reaches the upstream's own responses (wire §2.4, §3)."""

import asyncio
import json
import posixpath
from urllib.parse import unquote

import pytest

from proxy.app import create_app
from proxy.settings import Settings
from tests.backend import Backend, converse, json_reply, reply, serving
from tests.callers import DONE, Caller, error_of, frames, ok, refusal, unframed
from tests.live import strict

OURS = {
    "/responses": "GET, HEAD, POST",
    "/responses/resp_x": "DELETE, GET, HEAD",
    "/responses/resp_%0Ax": "DELETE, GET, HEAD",
    "/responses/resp_x/cancel": "POST",
    "/responses/resp_x/input_items": "GET, HEAD",
    "/responses/input_tokens": "POST",
    "/responses/compact": "POST",
    "/conversations": "POST",
    "/conversations/conv_x": "DELETE, GET, HEAD, POST",
    "/conversations/conv_x/items": "GET, HEAD, POST",
    "/conversations/conv_x/items/msg_x": "DELETE, GET, HEAD",
}
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


@pytest.fixture(params=["/v1", "/v1/openai/v1"])
async def either(request, url):
    """A caller under each of our prefixes."""
    async with Caller(url, prefix=request.param) as caller:
        yield caller


async def test_another_method_on_our_paths_is_a_405_that_names_those_allowed(either, backend):
    for path, allowed in OURS.items():
        for method in METHODS:
            if method in allowed:
                continue
            answer = await either.http.request(method, path)
            assert refusal(answer) == (405, "method_not_supported", None)
            assert answer.headers["allow"] == allowed
            assert method in error_of(answer)["message"]
    assert backend.requests == []


@pytest.mark.parametrize(
    "path",
    ["/responses/a/b", "/responses/a/input_items/b", "/conversations/a/b", "/conversations/a/items/b/c"],
)
async def test_an_unknown_path_below_ours_is_a_404_and_goes_nowhere(either, backend, path):
    for method in METHODS:
        assert refusal(await either.http.request(method, path)) == (404, None, None)
    assert backend.requests == []


async def test_the_same_state_is_served_under_both_prefixes_and_only_one_says_done(url, backend):
    async with Caller(url) as caller, Caller(url, caller.key, prefix="/v1/openai/v1") as alias:
        made = await caller.create("One")
        assert await alias.get(f"/responses/{made['id']}") == made
        follow = await alias.create("Two", previous_response_id=made["id"])
        assert [m["content"] for m in backend.requests[1].json["messages"]] == ["One", "Hi", "Two"]
        assert [one["id"] for one in (await caller.get("/responses"))["data"]] == [follow["id"], made["id"]]
        conversation = await alias.conversation()
        await caller.create(conversation=conversation)
        answer = await alias.ask(stream=True)
        assert DONE not in frames(answer.content)
        strict.stream(unframed(answer.content, done=False))
        assert frames((await caller.ask(stream=True)).content)[-1] == DONE


async def test_a_slash_at_the_end_changes_nothing(either):
    made = ok(await either.http.post("/responses/", json={"model": "m", "input": "x"}))
    assert await either.get(f"/responses/{made['id']}/") == made
    assert ok(await either.http.post("/conversations/", json={}))["object"] == "conversation"
    assert (await either.get("/responses/"))["data"] == [{**made, "input": [*made_input(made)]}]


def made_input(made):
    text = {"type": "input_text", "text": "x"}
    id_ = made["output"][0]["id"][:-4] + "0001"
    return [{"type": "message", "role": "user", "status": "completed", "content": [text], "id": id_}]


async def test_a_head_request_gets_the_head_of_a_get(caller):
    made = await caller.create()
    answer = await caller.http.head(f"/responses/{made['id']}")
    assert (answer.status_code, answer.content) == (200, b"")


async def test_options_on_our_paths_are_the_upstreams_to_answer(calling, backend):
    caller = await calling("--api-key=secret")
    headers = ("access-control-allow-origin: *", "access-control-allow-methods: POST")
    for path in ("/responses", "/conversations/conv_x", "/models"):
        backend.script(reply(b"", status=204, headers=headers, length=False))
        answer = await caller.http.options(path, headers={"authorization": ""})
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-methods"] == "POST"
        assert (backend.requests[-1].method, backend.requests[-1].target) == ("OPTIONS", f"/v1{path}")


TRICKS = [
    "/v1//responses",
    "//v1/responses",
    "/v1/./responses",
    "/v1/x/../responses",
    "/v1/../v1/responses",
    "/x/../v1/responses/resp_1",
    "/v1/%72esponses",
    "/v1/responses%2Fresp_1",
    "/v1%2Fresponses",
    "/v1/%2e/responses",
    "/v1/x/%2e%2e/responses",
    "/v1/x%2F..%2Fresponses",
    "/v1/responses/../responses/resp_1",
    "/v1/responses/./resp_1",
    "/v1/openai/v1//responses",
    "/v1/openai/v1/../v1/responses",
    "/v1/openai/../responses",
    "/v1/responses;x=1/..;/",
    "/v1/responses/",
    "/v1/responses//",
    "/v1/conversations%2f",
    "/./v1/conversations/conv_1/items",
    "/v1/responses%00",
    "/v1/%2572esponses",
    "/v1/responses%3Fx",
    "/V1/../v1/responses",
    "/v1\\responses",
    "http://127.0.0.1/v1/responses",
]


@pytest.mark.parametrize("target", TRICKS)
async def test_no_spelling_reaches_the_upstreams_own_responses(url, backend, target):
    backend.default = (json_reply({"theirs": True}),)
    for method in ("GET", "POST", "DELETE"):
        head = f"{method} {target} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}"
        answer = await converse(url, head.encode())
        assert answer.startswith(b"HTTP/1.1 ")
    for request in backend.requests:  # one that came through must not be theirs, however a server reads it
        read = f"{lenient(request.target)}/"
        assert not read.startswith(("/v1/responses/", "/v1/conversations/")), request.target


def lenient(target):
    """The path as a server may read it: decoded, slashes collapsed, dot segments resolved."""
    path = unquote(target.partition("?")[0])
    return posixpath.normpath(f"/{path.lstrip('/')}").lower()


async def test_a_name_that_only_begins_like_ours_is_passed_on(caller, backend):
    for path in ("/responses_of_mine", "/conversationsx", "/chat/completions"):
        backend.script(json_reply({"path": path}))
        assert (await caller.http.post(path, json={})).json() == {"path": path}
    assert [request.target for request in backend.requests] == [
        "/v1/responses_of_mine",
        "/v1/conversationsx",
        "/v1/chat/completions",
    ]


OFF = "--websocket=off"


@pytest.mark.parametrize("library", ["none", "auto"])
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses/", "/v1/openai/v1/responses"])
async def test_a_websocket_that_is_not_served_is_refused_with_426(valkey, backend, path, library):
    """Whether or not the server has a library that would take one."""
    app = create_app(Settings.resolve([f"--store={valkey.url}", f"--upstream={backend.url}", OFF], {}))
    upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    upgrade += "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    async with serving(app, ws=library) as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n{upgrade}\r\n".encode())
        async with asyncio.timeout(20):
            head = await reader.readuntil(b"\r\n\r\n")
        writer.close()
    assert head.startswith(b"HTTP/1.1 426 ")
    assert b"content-type: application/json" in head.lower()
    assert backend.requests == []


@pytest.mark.parametrize("path", ["/v1/responses", "/v1//responses/", "/v1/openai/v1/responses"])
async def test_a_server_that_knows_websockets_refuses_alike(valkey, backend, path):
    """Where a WebSocket library is installed the server hands the application a handshake instead of a request."""
    app = create_app(Settings.resolve([f"--store={valkey.url}", f"--upstream={backend.url}", OFF], {}))
    told, sent = [{"type": "websocket.connect"}], []
    scope = {"type": "websocket", "path": path, "headers": [], "query_string": b""}

    async def receive():
        return told.pop(0)

    async def send(message):
        sent.append(message)

    await asyncio.create_task(app(scope | {"extensions": {"websocket.http.response": {}}}, receive, send))
    assert (sent[0]["type"], sent[0]["status"]) == ("websocket.http.response.start", 426)
    assert json.loads(sent[1]["body"])["error"]["type"] == "invalid_request_error"
    told, sent[:] = [{"type": "websocket.connect"}], []
    await asyncio.create_task(app(scope, receive, send))
    assert [message["type"] for message in sent] == ["websocket.close"]


async def test_health_and_ready_tell_what_is_lacking(url, backend, caller):
    backend.default = (json_reply({"object": "list", "data": []}),)
    assert ok(await caller.http.get(f"{url}/health")) == {"status": "ok"}
    ready = ok(await caller.http.get(f"{url}/ready"))
    assert ready == {"status": "ready", "store": "ok", "upstream": "ok", "server": "ok"}
    backend.default = (reply(b"", status=500),)
    answer = await caller.http.get(f"{url}/ready")
    assert (answer.status_code, answer.json()["status"]) == (503, "not ready")
    assert answer.json()["upstream"] == "The upstream answered 500."
    asked = len(backend.requests)
    ready = ok(await caller.http.get(f"{url}/ready?upstream=false"))
    assert ready == {"status": "ready", "store": "ok", "upstream": "not asked", "server": "ok"}
    assert len(backend.requests) == asked
    wrong = await caller.http.get(f"{url}/ready?upstream=maybe")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "upstream")


async def test_own_prefix_moves_health_and_ready_and_leaves_theirs_to_the_upstream(serve, backend):
    url = await serve("--own-prefix=/statecar")
    backend.default = (json_reply({"theirs": True}),)
    async with Caller(url, prefix="") as caller:
        assert ok(await caller.http.get("/statecar/health")) == {"status": "ok"}
        assert ok(await caller.http.get("/statecar/ready"))["status"] == "ready"
        assert ok(await caller.http.get("/health")) == {"theirs": True}
        assert ok(await caller.http.get("/ready")) == {"theirs": True}
        assert [request.target for request in backend.requests[-2:]] == ["/health", "/ready"]
        backend.default = Backend.default
        strict.response(ok(await caller.http.post("/v1/responses", json={"model": "m", "input": "x"})))
