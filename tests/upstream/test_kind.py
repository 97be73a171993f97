"""Which server the upstream is, by what its endpoints answer: each of them as the real one does."""

import asyncio
import time

import pytest

from proxy.errors import UpstreamError
from proxy.upstream import by_asking, kind
from tests.backend import CLOSE, PATIENCE, json_reply, reply

PATHS = ("/v1/models", "/props", "/get_model_info", "/version", "/api/version")
MISSING = json_reply({"detail": "Not Found"}, status=404)
KEYLESS = json_reply({"error": "Unauthorized"}, status=401)
HTML = reply(b"<html></html>", headers=("content-type: text/html",))


@pytest.fixture
def patience(monkeypatch):
    """More time than users have, for machines with more to do."""
    monkeypatch.setattr(kind, "LIMIT", PATIENCE)


def models(*owners):
    listed = [{"id": f"m{n}", "object": "model", "created": 1, "owned_by": owner} for n, owner in enumerate(owners)]
    return json_reply({"object": "list", "data": listed})


PROPS = json_reply({"default_generation_settings": {"params": {"seed": 1}}, "total_slots": 4, "chat_template": "x"})
INFO = json_reply({"model_path": "qwen/qwen2.5-0.5b-instruct", "tokenizer_path": "x", "is_generation": True})
VERSION = json_reply({"version": "0.32.0"})

SERVERS = {
    "vLLM": ({"/v1/models": models("vllm"), "/version": VERSION}, "vllm"),
    "vLLM, with adapters": ({"/v1/models": models("vllm", "vllm")}, "vllm"),
    "vLLM, its key unknown": ({"/v1/models": KEYLESS, "/version": VERSION}, "vllm"),
    "llama.cpp": ({"/v1/models": models("llamacpp"), "/props": PROPS}, "llamacpp"),
    "llama.cpp under another name": (
        {"/v1/models": models("me"), "/props": PROPS, "/api/version": VERSION},
        "llamacpp",
    ),
    "SGLang": ({"/v1/models": models("sglang"), "/get_model_info": INFO}, "sglang"),
    "SGLang, older": ({"/v1/models": models("root"), "/get_model_info": INFO, "/api/version": VERSION}, "sglang"),
    "Ollama": ({"/v1/models": models("library", "library"), "/api/version": VERSION}, "ollama"),
    "Ollama, a model of one's own": ({"/v1/models": models("library", "me"), "/api/version": VERSION}, "ollama"),
    "Ollama without a model": ({"/v1/models": json_reply({"data": None}), "/api/version": VERSION}, "ollama"),
}


def answers(backend, server):
    """Scripts the backend; the questions come in the order of PATHS."""
    for path in PATHS:
        backend.script(server.get(path, MISSING))


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.usefixtures("patience")
async def test_a_server_is_known_by_its_answers(backend, upstream, name):
    server, known = SERVERS[name]
    answers(backend, server)
    found = await by_asking(upstream)
    assert (found.kind, found.final) == (known, True)
    asked = [request.target for request in backend.requests]
    assert asked == list(PATHS[: len(asked)])
    assert asked[-1] in found.how
    assert backend.connections == 1


@pytest.mark.parametrize(
    "server",
    [
        {"/v1/models": models("openai")},
        {"/v1/models": models("vllm", "openai")},
        {"/v1/models": models("vllm", "sglang")},
        {"/v1/models": json_reply([1]), "/props": json_reply({"props": 1}), "/get_model_info": HTML},
        {"/v1/models": json_reply({"data": [1, {"owned_by": []}, {}]}), "/version": json_reply({"version": 1, "x": 2})},
        {"/v1/models": json_reply({"object": "error"}, status=404), "/version": KEYLESS},
    ],
)
@pytest.mark.usefixtures("patience")
async def test_a_server_that_is_none_of_these_need_not_be_asked_again(backend, upstream, server):
    answers(backend, server)
    found = await by_asking(upstream)
    assert (found.kind, found.final) == (None, True)
    assert len(backend.requests) == len(PATHS)


@pytest.mark.parametrize(
    "refusal",
    [KEYLESS, json_reply({}, status=403), json_reply({}, status=429), json_reply({}, status=503), HTML],
)
@pytest.mark.usefixtures("patience")
async def test_a_server_that_shows_no_models_may_tell_later(backend, upstream, refusal):
    answers(backend, {"/v1/models": refusal})
    found = await by_asking(upstream)
    assert (found.kind, found.final) == (None, False)


async def test_a_server_that_is_not_there_may_come(connect):
    found = await by_asking(connect("http://127.0.0.1:1/v1"))
    assert (found.kind, found.final) == (None, False)
    assert "not reachable" in found.how


async def test_a_silent_server_holds_nobody_up_for_long(backend, upstream, monkeypatch):
    monkeypatch.setattr(kind, "LIMIT", 0.1)
    for _ in PATHS:
        backend.script(asyncio.Event())
    start = time.monotonic()
    found = await by_asking(upstream)
    assert (found.kind, found.final) == (None, False)
    assert time.monotonic() - start < PATIENCE / 2


@pytest.mark.usefixtures("patience")
async def test_the_questions_carry_the_key_and_lie_at_the_root(backend, connect):
    answers(backend, {})
    await by_asking(connect(backend.url.replace("/v1", "/llm/v1"), api_key="sk-up"), [("authorization", "Bearer me")])
    assert [request.target for request in backend.requests] == [f"/llm{path}" for path in PATHS]
    assert {tuple(request.values("authorization")) for request in backend.requests} == {("Bearer sk-up",)}


@pytest.mark.usefixtures("patience")
async def test_a_callers_key_serves_where_there_is_no_other(backend, upstream):
    answers(backend, {"/v1/models": models("vllm")})
    await by_asking(upstream, [("authorization", "Bearer me")])
    assert backend.requests[0].values("authorization") == ["Bearer me"]


# -- asking


async def test_a_question_with_a_body_is_json_both_ways(backend, upstream):
    backend.script(json_reply({"count": 5}))
    assert await upstream.ask("POST", "/tokenize", {"prompt": "é"}, [("x-a", "b")]) == {"count": 5}
    request = backend.requests[0]
    assert (request.method, request.target, request.json) == ("POST", "/tokenize", {"prompt": "é"})
    assert request.values("content-type") == ["application/json"]
    assert request.values("x-a") == ["b"]


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        (json_reply({"error": {"message": "No such model."}}, status=404), 404, "No such model."),
        (HTML, 502, "The upstream's answer is no JSON: <html></html>"),
        (reply(b"[" + b" " * 100 + b"]"), 502, "The upstream's answer exceeds 50 bytes."),
        (reply(b"", status=302, headers=("location: /x",)), 502, "redirect"),
        (CLOSE, 502, "closed the connection"),
    ],
)
async def test_an_answer_that_is_none_is_an_error(backend, upstream, answer, status, message):
    backend.script(answer)
    with pytest.raises(UpstreamError) as caught:
        await upstream.ask("GET", "/v1/models", limit=50)
    assert caught.value.status == status
    assert message in caught.value.message


@pytest.mark.parametrize("begun", [False, True])
async def test_a_question_has_a_limit_in_time(backend, upstream, begun):
    head = [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[1"] if begun else []
    backend.default = (*head, asyncio.Event())
    seconds = 0.05
    while not backend.requests:  # a limit that is over before it could ask is a limit as well
        with pytest.raises(UpstreamError) as caught:
            await upstream.ask("GET", "/v1/models", seconds=seconds)
        assert caught.value.status == 504
        seconds *= 2
    await asyncio.wait_for(backend.requests[0].gone.wait(), PATIENCE)


async def test_the_limit_is_for_all_of_an_answer_that_drips(backend, upstream):
    drops = [asyncio.Event() for _ in range(100)]
    for at, drop in enumerate(drops):
        asyncio.get_running_loop().call_later(at * 0.05, drop.set)
    steps = (step for drop in drops for step in (drop, b" "))
    backend.script(b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n[", *steps, asyncio.Event())
    with pytest.raises(UpstreamError, match="did not answer /v1/models within 0.4 s"):
        await upstream.ask("GET", "/v1/models", seconds=0.4)
