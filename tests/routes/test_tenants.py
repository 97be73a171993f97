"""Who sees whose state, and that nothing of one caller ever leaves with another's request (wire §1.3, §10.1)."""

import asyncio
import secrets

import pytest

from tests.backend import completion, json_reply, stream, talk
from tests.callers import Caller, error_of, ok, refusal

ENDPOINTS = {
    "retrieve": ("GET", "/responses/{resp}", None),
    "stream": ("GET", "/responses/{resp}?stream=true", None),
    "delete": ("DELETE", "/responses/{resp}", None),
    "cancel": ("POST", "/responses/{resp}/cancel", None),
    "input items": ("GET", "/responses/{resp}/input_items", None),
    "list after": ("GET", "/responses?after={resp}", None),
    "list before": ("GET", "/responses?before={resp}", None),
    "continue": ("POST", "/responses", {"model": "m", "input": "x", "previous_response_id": "{resp}"}),
    "continue streamed": (
        "POST",
        "/responses",
        {"model": "m", "input": "x", "previous_response_id": "{resp}", "stream": True},
    ),
    "refer": ("POST", "/responses", {"model": "m", "input": [{"type": "item_reference", "id": "{msg}"}]}),
    "refer streamed": (
        "POST",
        "/responses",
        {"model": "m", "input": [{"type": "item_reference", "id": "{msg}"}], "stream": True},
    ),
    "converse": ("POST", "/responses", {"model": "m", "input": "x", "conversation": "{conv}"}),
    "converse by object": ("POST", "/responses", {"model": "m", "input": "x", "conversation": {"id": "{conv}"}}),
    "converse unstored": ("POST", "/responses", {"model": "m", "input": "x", "conversation": "{conv}", "store": False}),
    "conversation": ("GET", "/conversations/{conv}", None),
    "update": ("POST", "/conversations/{conv}", {"metadata": {"stolen": "yes"}}),
    "delete conversation": ("DELETE", "/conversations/{conv}", None),
    "list items": ("GET", "/conversations/{conv}/items", None),
    "list items after": ("GET", "/conversations/{conv}/items?after={item}", None),
    "add items": ("POST", "/conversations/{conv}/items", {"items": [{"role": "user", "content": "x"}]}),
    "item": ("GET", "/conversations/{conv}/items/{item}", None),
    "delete item": ("DELETE", "/conversations/{conv}/items/{item}", None),
    "item in one's own": ("GET", "/conversations/{own}/items/{item}", None),
    "delete item in one's own": ("DELETE", "/conversations/{own}/items/{item}", None),
    "list one's own after": ("GET", "/conversations/{own}/items?after={item}", None),
}


def filled(template, ids):
    if isinstance(template, dict):
        return {key: filled(value, ids) for key, value in template.items()}
    if isinstance(template, list):
        return [filled(value, ids) for value in template]
    return template.format(**ids) if isinstance(template, str) else template


async def everything_of(caller):
    """The ids of one of each: a response, its message, a conversation, an item of it."""
    made = await caller.create("Secret")
    conversation = await caller.conversation(items=[{"role": "user", "content": "Secret"}], metadata={"k": "v"})
    items = (await caller.get(f"/conversations/{conversation}/items"))["data"]
    return {"resp": made["id"], "msg": made["output"][0]["id"], "conv": conversation, "item": items[0]["id"]}


@pytest.mark.parametrize("name", ENDPOINTS)
async def test_anothers_id_is_answered_exactly_as_an_unknown_one(caller, url, backend, name):
    method, path, body = ENDPOINTS[name]
    foreign = await everything_of(caller)
    unknown = {key: f"{id_.partition('_')[0]}_{secrets.token_hex(22)}{id_[-4:]}" for key, id_ in foreign.items()}
    before = [await caller.get(f"/responses/{foreign['resp']}"), await caller.texts(foreign["conv"])]
    asked = len(backend.requests)
    async with Caller(url) as other:
        own = {"own": await other.conversation()}
        answers = []
        for ids in (foreign, unknown):
            answer = await other.http.request(method, filled(path, ids | own), json=filled(body, ids | own))
            text = answer.text
            for key, id_ in ids.items():
                text = text.replace(id_, f"<{key}>")
            headers = {k: v for k, v in answer.headers.items() if k != "x-request-id"}
            answers.append((answer.status_code, headers, text))
    assert answers[0] == answers[1]
    assert 400 <= answers[0][0] < 500
    assert len(backend.requests) == asked
    assert before == [await caller.get(f"/responses/{foreign['resp']}"), await caller.texts(foreign["conv"])]
    assert (await caller.get(f"/conversations/{foreign['conv']}"))["metadata"] == {"k": "v"}


async def test_lists_hold_ones_own_only(caller, url):
    made = await caller.create()
    async with Caller(url) as other:
        assert (await other.get("/responses"))["data"] == []
        await other.create()
    assert [one["id"] for one in (await caller.get("/responses"))["data"]] == [made["id"]]


async def test_every_form_of_key_is_a_tenant_of_its_own(url):
    key = secrets.token_hex(8)
    forms = [{"authorization": f"Bearer {key}"}, {"authorization": f"Basic {key}"}, {"api-key": key}, {}]
    made = []
    async with Caller(url) as caller:
        for form in forms:
            caller.http.headers.pop("authorization", None)
            answer = await caller.http.post("/responses", json={"model": "m", "input": "x"}, headers=form)
            made.append((form, ok(answer)["id"]))
        for form, _ in made:
            statuses = [(await caller.http.get(f"/responses/{id_}", headers=form)).status_code for _, id_ in made]
            # of one key, sent as a token or as api-key, nothing says that they are the same
            assert statuses == [200 if form is other else 404 for other, _ in made]


async def test_one_of_our_own_keys_is_one_tenant_however_it_is_presented(calling):
    caller = await calling("--api-key=k1,k2")
    made = ok(
        await caller.http.post(
            "/responses", json={"model": "m", "input": "x"}, headers={"api-key": "k1", "authorization": ""}
        )
    )
    for headers, status in (
        ({"authorization": "Bearer k1"}, 200),
        ({"authorization": "bearer  k1"}, 200),
        ({"authorization": "", "api-key": "k1"}, 200),
        ({"authorization": "Bearer k2"}, 404),
    ):
        assert (await caller.http.get(f"/responses/{made['id']}", headers=headers)).status_code == status


async def test_tenant_off_shares_all(calling):
    caller = await calling("--tenant=off")
    made = await caller.create()
    async with Caller(str(caller.http.base_url.join("/")).rstrip("/")) as other:
        assert await other.get(f"/responses/{made['id']}") == made
        caller.http.headers.pop("authorization")
        assert await caller.get(f"/responses/{made['id']}") == made


async def test_a_gateways_header_names_the_tenant_and_must_be_there(calling, backend):
    caller = await calling("--tenant=header:X-Tenant")
    for method, path in (("POST", "/responses"), ("GET", "/responses"), ("POST", "/conversations")):
        answer = await caller.http.request(method, path, json={"model": "m", "input": "x"})
        assert answer.status_code == 401
        assert "X-Tenant" in error_of(answer)["message"]
    assert backend.requests == []
    body = {"model": "m", "input": "x"}
    made = ok(await caller.http.post("/responses", json=body, headers={"x-tenant": "a"}))
    path = f"/responses/{made['id']}"
    same = {"x-tenant": "a", "authorization": "Bearer another"}
    assert ok(await caller.http.get(path, headers=same)) == made
    assert (await caller.http.get(path, headers={"x-tenant": "b"})).status_code == 404


async def test_with_keys_only_their_holders_may_call_and_no_key_of_theirs_goes_upstream(calling, backend):
    caller = await calling("--api-key=one", "--api-key=two")
    for given in ({"authorization": "Bearer wrong"}, {"authorization": ""}, {"api-key": "wrong"}):
        for method, path in (("POST", "/responses"), ("GET", "/responses"), ("GET", "/models"), ("POST", "/x")):
            answer = await caller.http.request(method, path, json={"model": "m", "input": "x"}, headers=given)
            assert refusal(answer) == (401, "invalid_api_key", None)
    assert backend.requests == []
    for given in ({"authorization": "Bearer one"}, {"authorization": "Bearer two"}):
        await caller.http.post("/responses", json={"model": "m", "input": "x"}, headers=given)
        backend.script(json_reply({}))
        await caller.http.get("/models", headers=given)
    assert len(backend.requests) == 4
    for request in backend.requests:
        assert request.values("authorization") == []
    alone = {"authorization": "", "api-key": "one"}
    assert (await caller.http.get("/responses", headers=alone)).status_code == 200


async def test_an_upstream_key_replaces_the_callers(calling, backend):
    caller = await calling("--upstream-api-key=theirs")
    await caller.create()
    assert backend.requests[0].values("authorization") == ["Bearer theirs"]


async def test_nothing_of_one_caller_leaves_with_anothers_request(url, backend):
    """Cookies the upstream sets, headers and keys: over shared connections, translated and passed on."""
    crumbs = ("set-cookie: session=crumb; path=/", "set-cookie: other=crumb2")
    plain = json_reply(completion(), headers=crumbs)
    streamed = stream(*talk("Hi"))
    streamed = streamed.replace(b"\r\n", b"\r\nset-cookie: session=crumb3\r\n", 1)

    async def use(n):
        mine = {"cookie": f"mine=cookie{n}-", "x-custom": f"custom{n}-", "openai-organization": f"org{n}-"}
        async with Caller(url, f"key{n}-", **mine) as caller:
            for _ in range(3):
                backend.script(plain)
                await caller.ask(f"prompt{n}-")
                backend.script(plain)
                await caller.http.post("/chat/completions", json={"messages": f"prompt{n}-"})
                backend.script(streamed)
                await caller.ask(f"prompt{n}-", stream=True)

    for n in range(3):  # one after the other: connections are used again
        await use(n)
    async with asyncio.TaskGroup() as tasks:
        for n in range(3, 9):
            tasks.create_task(use(n))
    assert backend.connections < len(backend.requests) == 81
    for request in backend.requests:
        sent = request.head + request.body
        assert b"crumb" not in sent
        owners = {n for n in range(9) for kind in (b"key", b"cookie", b"custom", b"org") if kind + b"%d-" % n in sent}
        prompts = {n for n in range(9) if b"prompt%d-" % n in sent}
        assert len(owners) == 1
        assert owners == prompts
        if request.target == "/v1/chat/completions" and b'"model"' in request.body:  # a translated one
            assert not request.values("cookie") + request.values("x-custom")
            assert request.values("openai-organization") == [f"org{prompts.pop()}-"]
