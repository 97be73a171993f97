"""What upstreams are told of which requests belong together, and whose caches may be shared."""

import json

import pytest

from tests.callers import Caller

SESSION = "x-session-id"


def chats(backend):
    return [request for request in backend.requests if request.target.endswith("/chat/completions")]


def sessions(backend):
    return [request.values(SESSION) for request in chats(backend)]


async def test_a_chain_and_a_conversation_tell_their_lineage(backend, calling):
    caller = await calling("--session-header=X-Session-Id")
    first = await caller.create()
    second = await caller.create(previous_response_id=first["id"])
    await caller.events(previous_response_id=first["id"])  # a branch
    conversation = await caller.conversation()
    for _ in range(2):
        await caller.create(conversation=conversation)
    told = sessions(backend)
    assert told[0] == told[1] == told[2] and told[3] == told[4] != told[0]
    assert told[0][0] in first["id"] and told[0][0] in second["id"]
    assert all(len(each) == 1 for each in told)


async def test_a_callers_own_word_goes_on_as_it_came(backend, calling):
    caller = await calling("--session-header=x-session-id")
    caller.http.headers[SESSION] = "My Own"
    first = await caller.create(prompt_cache_key="k")
    await caller.create(previous_response_id=first["id"])
    assert sessions(backend) == [["My Own"], ["My Own"]]


async def test_a_prompt_cache_key_is_its_tenants_own(backend, serve):
    url = await serve("--session-header=x-session-id")
    for key, tenant in (("k", "a"), ("k", "a"), ("k", "b"), ("l", "a"), ("l\ud800", "a")):
        async with Caller(url, tenant) as caller:
            body = {"model": "m", "input": "Hi", "prompt_cache_key": key, "store": False}
            assert (await caller.http.post("/responses", content=json.dumps(body))).status_code == 200
    told = [session for (session,) in sessions(backend)]
    assert told[0] == told[1]
    assert len(set(told)) == 4
    assert all(len(session) == 32 and int(session, 16) for session in told)


async def test_it_is_told_unless_that_is_off(backend, calling):
    for flags, count in (([], 1), (["--session-header=off"], 0)):
        for how in ({}, {"upstreams": [{"replicas": [backend.url]}]}):
            caller = await calling(*flags, **how)
            await caller.create()
            assert len(sessions(backend)[-1]) == count


async def test_a_summary_and_a_count_belong_to_it_too(backend, calling):
    caller = await calling("--session-header=x-session-id", "--count-by-generation")
    first = await caller.create()
    body = {"model": "m", "previous_response_id": first["id"]}
    for path in ("/responses/compact", "/responses/input_tokens"):
        assert (await caller.http.post(path, json=body | {"input": "Hi"})).status_code == 200
    assert len(sessions(backend)) == 3
    assert len({session for (session,) in sessions(backend)}) == 1


async def test_tenants_share_no_cache_where_they_are_kept_apart(backend, serve):
    url = await serve("--cache-salt=tenant", "--vendor-keys=cache_salt", upstreams=[_vllm(backend)])
    for key, own in (("a", None), ("a", None), ("b", None), ("a", "mine"), ("b", "mine")):
        async with Caller(url, key) as caller:
            await caller.create(**({"cache_salt": own} if own else {}))
    told = [request.json["cache_salt"] for request in chats(backend)]
    assert told[0] == told[1]
    assert len(set(told)) == 4
    assert "mine" not in told


async def test_whoever_cannot_be_told_apart_shares_with_nobody(backend, serve):
    options = ("--cache-salt=tenant", "--store-down=stateless")
    url = await serve(*options, store="redis://127.0.0.1:9", upstreams=[_vllm(backend)])
    async with Caller(url, "a") as caller:
        for _ in range(2):
            assert (await caller.ask(store=False)).status_code == 200
    told = [request.json["cache_salt"] for request in chats(backend)]
    assert len(set(told)) == 2


@pytest.mark.parametrize("kind", ["openai", "vllm"])
async def test_openai_is_told_the_session_as_a_key(backend, calling, kind):
    caller = await calling("--prompt-cache-key=session", upstreams=[_vllm(backend) | {"kind": kind}])
    first = await caller.create()
    await caller.create(previous_response_id=first["id"])
    await caller.create(prompt_cache_key="own")
    await caller.create(store=False)  # a key of its own would part it from others with the same beginning
    told = [request.json.get("prompt_cache_key") for request in chats(backend)]
    if kind == "vllm":
        assert told == [None] * 4
    else:
        assert told[0] == told[1] == sessions(backend)[0][0]
        assert told[2:] == ["own", None]
    assert (await caller.get(f"/responses/{first['id']}"))["prompt_cache_key"] is None


def _vllm(backend):
    return {"replicas": [backend.url], "kind": "vllm"}
