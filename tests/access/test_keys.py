"""Keys of the key file at every edge: whose state they open, and what they may."""

import asyncio
import json
import logging
import time

import pytest

from tests.backend import json_reply, stream, talk
from tests.callers import Caller, error_of, ok, refusal
from tests.sockets import opened

KEYS = [
    {"key": "k-all", "name": "everything", "tenant": "one"},
    {"key": "k-same", "tenant": "one"},
    {"key": "k-other", "tenant": "two"},
    {"key": "k-own"},
    {"key": "k-read", "tenant": "one", "scope": "responses:read conversations:read"},
    {"key": "k-responses", "tenant": "one", "scope": ["responses"]},
    {"key": "k-passing", "tenant": "one", "scope": ["passthrough"]},
    {"key": "k-model", "tenant": "one", "models": ["qwen*"]},
    {"key": "k-ünicode", "tenant": "one"},
    {"key": "k-ended", "tenant": "one", "expires": "2020-01-01"},
]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": KEYS}))
    return path


@pytest.fixture
def at_once(monkeypatch):
    """A changed file counts with the next request."""
    monkeypatch.setattr("proxy.access.watched._EVERY", 0.0)


@pytest.fixture
async def url(serve, path, backend):
    backend.default = (stream(*talk("Hi")),)
    return await serve(f"--keys-file={path}", "--api-key=k-flag")


@pytest.fixture
async def calls(url):
    """Asks as the holder of a key: method, path, body."""
    async with Caller(url) as caller:

        async def ask(key, method, path, body=None, **headers):
            given = {"authorization": f"Bearer {key}".encode() if key is not None else b""} | headers
            return await caller.http.request(method, path, json=body, headers=given)

        yield ask


BODY = {"model": "m", "input": "x"}


async def test_keys_of_one_tenant_share_its_state_and_others_have_their_own(calls, backend):
    made = ok(await calls("k-all", "POST", "/responses", BODY))
    statuses = {
        key: (await calls(key, "GET", f"/responses/{made['id']}")).status_code
        for key in ("k-all", "k-same", "k-ünicode", "k-other", "k-own", "k-flag")
    }
    assert statuses == {"k-all": 200, "k-same": 200, "k-ünicode": 200, "k-other": 404, "k-own": 404, "k-flag": 404}
    assert (await calls(None, "GET", f"/responses/{made['id']}", **{"api-key": "k-all"})).status_code == 200
    assert backend.requests[0].values("authorization") == []


async def test_whoever_has_no_key_that_holds_may_nothing_and_is_told_how(calls, backend, caplog):
    caplog.set_level(logging.DEBUG)
    told = {
        None: ("Bearer", "You did not provide an API key"),
        "k-wrong": ("Bearer", "Incorrect API key provided."),
        "a.b.c": ("Bearer", "Incorrect API key provided."),
        "k-ended": ("Bearer", "This API key has expired."),
    }
    for key, (challenge, words) in told.items():
        for method, at in (
            ("POST", "/responses"),
            ("GET", "/conversations/conv_x"),
            ("GET", "/models"),
            ("POST", "/x"),
        ):
            answer = await calls(key, method, at, BODY)
            assert refusal(answer) == (401, "invalid_api_key", None)
            assert answer.headers["www-authenticate"] == challenge
            assert error_of(answer)["message"].startswith(words)
    assert backend.requests == []
    assert "k-wrong" not in caplog.text and "k-ended" not in caplog.text


async def test_the_log_names_a_key_by_its_name_alone(calls, caplog):
    caplog.set_level(logging.INFO, "statecar.access")
    ok(await calls("k-all", "POST", "/responses", BODY))
    assert caplog.records[-1].fields["key"] == "everything"
    assert "k-all" not in str([vars(record) for record in caplog.records])


SCOPES = {
    ("POST", "/responses"): "responses:write",
    ("GET", "/responses"): "responses:read",
    ("HEAD", "/responses"): "responses:read",
    ("GET", "/responses/{resp}"): "responses:read",
    ("GET", "/responses/{resp}/input_items"): "responses:read",
    ("POST", "/responses/{resp}/cancel"): "responses:write",
    ("DELETE", "/responses/{resp}"): "responses:write",
    ("POST", "/responses/compact"): "responses:write",
    ("POST", "/responses/input_tokens"): "responses:write",
    ("POST", "/conversations"): "conversations:write",
    ("GET", "/conversations/{conv}"): "conversations:read",
    ("POST", "/conversations/{conv}"): "conversations:write",
    ("DELETE", "/conversations/{conv}"): "conversations:write",
    ("GET", "/conversations/{conv}/items"): "conversations:read",
    ("POST", "/conversations/{conv}/items"): "conversations:write",
    ("GET", "/conversations/{conv}/items/responses"): "conversations:read",
    ("DELETE", "/conversations/{conv}/items/responses"): "conversations:write",
    ("GET", "/responses/conversations"): "responses:read",
    ("GET", "/models"): "passthrough",
    ("POST", "/chat/completions"): "passthrough",
}
HELD = {
    "k-read": {"responses:read", "conversations:read"},
    "k-responses": {"responses:read", "responses:write"},
    "k-passing": {"passthrough"},
}


@pytest.mark.parametrize("key", HELD)
async def test_a_key_may_do_what_its_scopes_cover_on_every_route_and_nothing_else(calls, backend, key):
    ids = {
        "resp": ok(await calls("k-all", "POST", "/responses", BODY))["id"],
        "conv": ok(await calls("k-all", "POST", "/conversations", {}))["id"],
    }
    for (method, at), scope in SCOPES.items():
        asked = len(backend.requests)
        answer = await calls(key, method, at.format(**ids), None if method in ("GET", "HEAD") else BODY)
        if scope in HELD[key]:
            assert answer.status_code != 403, (method, at)
        else:
            assert answer.status_code == 403, (method, at)
            assert answer.headers["www-authenticate"] == f'Bearer error="insufficient_scope", scope="{scope}"'
            assert method == "HEAD" or refusal(answer) == (403, "insufficient_scope", None)
            assert len(backend.requests) == asked
        if method == "DELETE" and answer.status_code == 200:
            ids["resp"] = ok(await calls("k-all", "POST", "/responses", BODY))["id"]


async def test_a_turn_in_a_conversation_takes_leave_to_write_conversations(calls, url, backend):
    conversation = ok(await calls("k-all", "POST", "/conversations", {}))["id"]
    for given in (conversation, {"id": conversation}):
        answer = await calls("k-responses", "POST", "/responses", BODY | {"conversation": given})
        assert refusal(answer) == (403, "insufficient_scope", None)
        assert "conversations:write" in answer.headers["www-authenticate"]
    async with opened(url, "k-responses") as socket:
        [told] = await socket.ask(conversation=conversation)
        assert (told["status"], told["error"]["code"]) == (403, "insufficient_scope")
        assert len(await socket.ask()) > 1
    ok(await calls("k-all", "POST", "/responses", BODY | {"conversation": conversation}))


async def test_a_model_that_is_not_granted_does_not_exist(calls, url, backend):
    for at in ("/responses", "/responses/compact", "/responses/input_tokens"):
        for body in (BODY, BODY | {"stream": True}, BODY | {"background": True}):
            answer = await calls("k-model", "POST", at, body)
            assert refusal(answer) == (404, "model_not_found", "model")
            assert error_of(answer)["message"] == "The model 'm' does not exist or you do not have access to it."
    async with opened(url, "k-model") as socket:
        [told] = await socket.ask()
        assert (told["status"], told["error"]["code"]) == (404, "model_not_found")
        assert len(await socket.ask(model="qwen3-32b")) > 1
    assert backend.requests[-1].json["model"] == "qwen3-32b"
    assert len(backend.requests) == 1
    ok(await calls("k-model", "POST", "/responses", BODY | {"model": "qwen3-32b"}))


PASSED_ON = {
    "granted": ({"json": {"model": "qwen3"}}, True),
    "not granted": ({"json": {"model": "m"}}, False),
    "none": ({"json": {"messages": []}}, False),
    "nothing": ({}, False),
    "both": ({"content": b'{"model": "m", "model": "qwen3"}'}, False),
    "in other letters": ({"content": b'{"model": "qwen3", "Model": "m"}'}, False),
    "a form": ({"files": {"file": b"x"}, "data": {"model": "qwen3"}}, True),
    "a form of another": ({"files": {"file": b"x"}, "data": {"model": "m"}}, False),
    "a form of both": ({"files": {"file": b"x"}, "data": {"model": ["m", "qwen3"]}}, False),
    "no form": ({"data": {"model": "qwen3"}}, False),
    "instead": ({"json": {"model": "qwen3", "models": ["qwen3", "m"]}}, False),
    "in UTF-7": (
        {"content": b'{"model": "qwen3", "+AG0-odel": "m"}', "headers": {"content-type": "x; charset=utf-7"}},
        False,
    ),
    "compressed": ({"content": b'{"model": "qwen3"}', "headers": {"content-encoding": "deflate"}}, False),
}


UNNAMED = {"none", "nothing", "no form", "in UTF-7", "compressed"}


async def test_what_is_passed_on_names_a_granted_model_and_no_other(url, backend):
    async with Caller(url, "k-model") as caller:
        for name, (content, is_granted) in PASSED_ON.items():
            asked = len(backend.requests)
            backend.default = (json_reply({}),)
            answer = await caller.http.post("/chat/completions", **content)
            if is_granted:
                assert answer.status_code == 200, name
                assert b"qwen3" in backend.requests[-1].body
            else:
                assert refusal(answer) == (404, "model_not_found", "model"), name
                assert ("application/json" in error_of(answer)["message"]) == (name in UNNAMED), name
            assert len(backend.requests) == asked + is_granted
        backend.default = (json_reply({"object": "list", "data": [{"id": "qwen3"}, {"id": "m"}]}),)
        assert [model["id"] for model in (await caller.get("/models"))["data"]] == ["qwen3"]
        assert (await caller.get("/models/qwen3"))["id"] == "qwen3"
        assert refusal(await caller.http.get("/models/m")) == (404, "model_not_found", "model")
    async with Caller(url, "k-all") as caller:
        assert [model["id"] for model in (await caller.get("/models"))["data"]] == ["qwen3", "m"]


async def test_a_preflight_carries_no_key(calls, backend):
    backend.script(json_reply({}))
    assert (await calls(None, "OPTIONS", "/models")).status_code == 200


async def test_a_withdrawn_key_ends_over_http_and_on_open_websockets(at_once, calls, url, path):
    async with opened(url, "k-all") as socket:
        assert len(await socket.ask()) > 1
        path.write_text(json.dumps({"keys": [{"key": "k-new", "tenant": "one", "models": ["other"]}]}))
        [told] = await socket.ask()
        assert (told["status"], told["error"]["code"]) == (401, "invalid_api_key")
        assert (await calls("k-all", "GET", "/responses")).status_code == 401
        assert (await calls("k-new", "GET", "/responses")).status_code == 200
        path.write_text("keys: [")
        assert (await calls("k-new", "GET", "/responses")).status_code == 200
        path.write_text(json.dumps({"keys": [{"key": "k-all", "expires": int(time.time()) + 1000}]}))
        assert len(await socket.ask()) > 1


async def test_a_server_that_nobody_asks_sees_that_its_key_file_is_broken(serve, path, caplog, monkeypatch):
    monkeypatch.setattr("proxy.access.watched._EVERY", 0.01)
    await serve(f"--keys-file={path}")
    path.write_text("keys: [")
    for _ in range(500):
        if f"key file {path}: no YAML" in caplog.text:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(caplog.text)


async def test_without_a_file_to_be_read_nobody_is_let_in_but_by_the_option_and_told_to_come_again(
    serve, path, backend
):
    path.unlink()
    async with Caller(await serve(f"--keys-file={path}", "--api-key=k-flag"), "k-all") as caller:
        for at in ("/responses", "/models"):
            answer = await caller.http.get(at)
            assert refusal(answer) == (503, "keys_unavailable", None)
            assert answer.headers["retry-after"] == "2"
        assert (await caller.http.get("/responses", headers={"authorization": "Bearer k-flag"})).status_code == 200
    assert backend.requests == []
