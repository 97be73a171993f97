"""``/v1/models`` of several groups as one list."""

import asyncio

import pytest

from tests.backend import Backend, json_reply, reply
from tests.callers import Caller, ok, refusal


def models(*ids, **more):
    data = [{"id": id_, "object": "model", "created": 1, "owned_by": "vllm", **more} for id_ in ids]
    return json_reply({"object": "list", "data": data})


@pytest.fixture
async def backends():
    async with Backend() as a, Backend() as b:
        a.default = (models("qwen3-32b", "qwen3-4b", "other", max_model_len=9),)
        b.default = (models("llama-3", "qwen3-4b", "org/tiny", "gpt-4o"),)
        yield a, b


@pytest.fixture
async def caller(backends, calling):
    a, b = backends
    return await calling(
        "--upstream-health-interval=0",
        upstreams=[
            {
                "name": "qwen",
                "models": ["qwen*"],
                "aliases": {"gpt-4o": "qwen3-32b", "gone": "no"},
                "replicas": [a.url],
            },
            {"name": "rest", "aliases": {"small": "org/tiny"}, "replicas": [b.url], "kind": "vllm"},
        ],
    )


async def listed(caller):
    answer = await caller.get("/models")
    assert answer.keys() == {"object", "data"} and answer["object"] == "list"
    return {model["id"]: model for model in answer["data"]}


async def test_each_group_tells_what_it_serves_and_aliases_are_models_of_their_own(caller):
    found = await listed(caller)
    assert list(found) == ["qwen3-32b", "qwen3-4b", "gpt-4o", "llama-3", "org/tiny", "small"]
    assert found["gpt-4o"] == found["qwen3-32b"] | {"id": "gpt-4o"}
    assert found["qwen3-4b"]["max_model_len"] == 9, "the first group that serves it"


@pytest.mark.parametrize("path", ["org/tiny", "org%2Ftiny", "small", "gpt-4o"])
async def test_one_model_is_of_the_same_list(caller, path):
    name = path.replace("%2F", "/")
    assert (await caller.get(f"/models/{path}"))["id"] == name


@pytest.mark.parametrize("path", ["other", "gone", "no", "x"])
async def test_a_model_that_nobody_serves_is_not_found(caller, path):
    assert refusal(await caller.http.get(f"/models/{path}")) == (404, "model_not_found", "model")


async def test_a_group_that_does_not_answer_is_left_out(backends, caller, caplog):
    backends[0].default = (json_reply({"error": {"message": "no"}}, status=500),)
    assert list(await listed(caller)) == ["llama-3", "org/tiny", "small", "qwen3-4b"][:3]
    assert "group qwen: its models are missing" in caplog.text
    backends[1].default = (json_reply([1]),)
    answer = await caller.http.get("/models")
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "no"


async def test_a_group_that_hangs_keeps_nobody_waiting_for_the_others(backends, calling, monkeypatch):
    monkeypatch.setattr("proxy.routes.models._PATIENCE", 0.5)
    a, b = backends
    a.default = (asyncio.Event(),)
    groups = [
        {"models": ["qwen*"], "replicas": [a.url, a.url.replace("127.0.0.1", "localhost")]},
        {"replicas": [b.url]},
    ]
    caller = await calling("--upstream-health-interval=0", upstreams=groups)
    assert list(await listed(caller)) == ["llama-3", "org/tiny", "gpt-4o"]
    b.default = (asyncio.Event(),)
    assert (await caller.http.get("/models")).status_code == 504


ODD = {
    "no JSON": b"<html>",
    "a list": b"[]",
    "no data": b'{"object": "list"}',
    "data that is none": b'{"data": {"id": "a"}}',
    "odd entries": b'{"data": [1, null, {}, {"id": 1}, {"id": ["a"]}, {"id": {}}, []]}',
    "nothing": b"",
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
async def test_whatever_one_group_answers_the_others_models_are_told(backends, caller, odd):
    backends[0].default = (reply(odd),)
    assert list(await listed(caller)) == ["llama-3", "org/tiny", "small"]


async def test_the_callers_key_goes_to_every_group(backends, caller):
    for backend in backends:
        backend.requests.clear()
    await listed(caller)
    for backend in backends:
        (asked,) = (each for each in backend.requests if each.target == "/v1/models")
        assert asked.values("authorization") == [f"Bearer {caller.key}"]


async def test_a_single_upstreams_list_is_its_own_byte_for_byte(backends, calling):
    odd = b'{"data" : [ {"id":"a"} ], "more":1}'
    backends[0].default = (b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(odd), odd),)
    for how in ({"upstream": backends[0].url}, {"upstreams": [{"replicas": [backends[0].url]}]}):
        caller = await calling(**how)
        assert (await caller.http.get("/models")).content == odd


@pytest.mark.parametrize("single", [False, True])
async def test_a_key_sees_the_models_that_it_may_ask(backends, serve, tmp_path, single):
    file = tmp_path / "keys.yaml"
    file.write_text("keys: [{key: sk-some, name: some, tenant: t, models: ['llama*', gpt-4o]}]")
    groups = [{"aliases": {"gpt-4o": "org/tiny"}, "replicas": [backends[1].url]}]
    how = {"upstream": backends[1].url} if single else {"upstreams": groups}
    async with Caller(await serve(f"--keys-file={file}", **how), "sk-some") as caller:
        assert sorted(await listed(caller)) == ["gpt-4o", "llama-3"]
        assert refusal(await caller.http.get("/models/qwen3-4b"))[1] == "model_not_found"
        assert refusal(await caller.http.get(f"{caller.http.base_url}/models/org%2Ftiny"))[1] == "model_not_found"
        for body in ({"model": "qwen3-4b"}, {}):
            answer = await caller.http.post("/chat/completions", json=body | {"messages": []})
            assert refusal(answer) == (404, "model_not_found", "model")
        assert (await caller.http.post("/chat/completions", json={"model": "gpt-4o"})).status_code == 200


async def test_both_paths_give_the_same(caller):
    answers = [await caller.http.get(f"http://{caller.http.base_url.netloc.decode()}{path}") for path in ALIKE]
    assert len({answer.content for answer in answers}) == 1
    assert all(ok(answer) for answer in answers)


ALIKE = ("/v1/models", "/v1/openai/v1/models", "/v1//models/")
