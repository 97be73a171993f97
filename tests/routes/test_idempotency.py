"""Requests with an ``Idempotency-Key`` (wire §10.13): one response for one key, whoever asks how often and where."""

import asyncio

import pytest

from proxy.state import runs
from tests.backend import CLOSE, PATIENCE, STREAM_HEAD, chunked, json_reply, sse, stream, talk
from tests.callers import Caller, error_of, frames, ok, refusal
from tests.routes.test_background import (
    HALF,
    REST,
    apart,
    cancelled,
    events_key,
    replay,
    seen,
    text_of,
)
from tests.routes.test_detach import run_of
from tests.routes.test_leaving import sent
from tests.translate import rules

__all__ = ["apart"]  # a fixture for every test here

BOTH = pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
NEVER = asyncio.Event  # a step that nobody ends


@pytest.fixture
async def replicas(serve, valkey, apart):
    """Two callers of one tenant, each at a server of its own."""
    async with Caller(await serve()) as one, Caller(await serve(), one.key) as other:
        with valkey.admin() as admin:
            one.admin, one.runs = admin, lambda: runs.RUNS
            yield one, other


async def ask(caller, key, text="Hi", /, headers=(), **fields):
    body = {"model": "m", "input": text} | fields
    return await caller.http.post("/responses", json=body, headers={"idempotency-key": key, **dict(headers)})


def response_of(answer):
    """The response that an answer tells of, whatever its form."""
    assert answer.status_code == 200, answer.text
    if answer.headers["content-type"] == "application/json":
        return answer.json()
    *events, done = frames(answer.content)
    assert done == "[DONE]"
    rules.check(events)
    return events[-1]["response"]


def is_replayed(answer):
    return answer.headers.get("idempotent-replayed") == "true"


# -- the same key, the same response


@BOTH
@pytest.mark.parametrize("background", [False, True], ids=["foreground", "background"])
async def test_what_was_answered_is_answered_again(replicas, backend, streamed, background):
    one, other = replicas
    fields = {"stream": streamed, "background": background, "metadata": {"a": "1", "b": "2"}}
    backend.default = (stream(*talk("Hel", "lo")),)
    first = await ask(one, "k", **fields)
    assert not is_replayed(first)
    made = response_of(first)
    last = await seen(one, made["id"], "completed")
    fields["metadata"] = {"b": "2", "a": "1"}
    for caller in (one, other):
        again = await caller.http.post(
            "/responses", json={**fields, "input": "Hi", "model": "m"}, headers={"idempotency-key": "k"}
        )
        assert is_replayed(again)
        assert again.content == first.content if streamed else again.json() == last
    assert len(backend.requests) == 1
    assert [row["id"] for row in (await one.get("/responses"))["data"]] == [made["id"]]


@BOTH
async def test_what_is_under_way_is_joined(replicas, backend, streamed):
    one, other = replicas
    conversation, go = await one.conversation(), asyncio.Event()
    backend.script(HALF, go, REST)
    fields = {"stream": streamed, "conversation": conversation}
    asking = [asyncio.create_task(ask(one, "k", **fields))]
    await backend.received(1)
    asking += [asyncio.create_task(ask(caller, "k", **fields)) for caller in (other, one)]
    await asyncio.sleep(0.1)
    go.set()
    answers = await asyncio.gather(*asking)
    assert [is_replayed(answer) for answer in answers] == [False, True, True]
    assert len({answer.content if streamed else str(answer.json()) for answer in answers}) == 1
    assert text_of(response_of(answers[0])) == "Hello"
    assert await one.texts(conversation) == ["Hi", "Hello"]
    assert len(backend.requests) == 1


@BOTH
async def test_of_many_at_the_same_instant_one_asks_the_model(replicas, backend, streamed):
    for key in map(str, range(5)):
        backend.requests.clear()
        backend.script(stream(*talk("Hi")))
        answers = await asyncio.gather(*(ask(caller, key, stream=streamed) for caller in replicas * 3))
        assert [is_replayed(answer) for answer in answers].count(False) == 1
        assert len({response_of(answer)["id"] for answer in answers}) == 1
        assert len(backend.requests) == 1


@BOTH
async def test_who_leaves_leaves_the_response_to_the_next(replicas, backend, streamed):
    one, other = replicas
    go = asyncio.Event()
    backend.script(HALF, go, REST)
    async with sent_with_key(one, "k", stream=streamed):
        id_ = await run_of(one)
    async with sent_with_key(other, "k", stream=streamed):
        await asyncio.sleep(0.1)  # one that joins leaves without consequence
    go.set()
    answer = await ask(other, "k", "Leaving", stream=streamed)
    assert is_replayed(answer)
    assert (response_of(answer)["id"], text_of(response_of(answer))) == (id_, "Hello")
    assert len(backend.requests) == 1


def sent_with_key(caller, key, **body):
    return sent(caller, headers=f"idempotency-key: {key}\r\n", **body)


# -- another body, no key, and what a key may be


async def test_another_body_is_refused_whether_the_first_is_made_or_being_made(replicas, backend):
    one, other = replicas
    go = asyncio.Event()
    backend.script(go, stream(*talk("Hi")))
    first = asyncio.create_task(ask(one, "k"))
    await backend.received(1)
    for _ in range(2):
        for fields in ({"text": "Ho"}, {"stream": True}, {"temperature": 0.5}):
            answer = await ask(other, "k", fields.pop("text", "Hi"), **fields)
            assert refusal(answer) == (400, "idempotency_key_reused", None)
            assert "new key" in error_of(answer)["message"]
        go.set()
        await first
    assert len(backend.requests) == 1


async def test_a_key_is_its_tenants(url, backend):
    async with Caller(url) as one, Caller(url) as other:
        answers = [await ask(caller, "k", text) for caller, text in ((one, "Hi"), (other, "Ho"))]
    assert not any(map(is_replayed, answers))
    assert len(backend.requests) == 2


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "schl\u00fcssel"])
async def test_what_can_be_no_key_is_refused(caller, backend, key):
    answer = await caller.http.post(
        "/responses", json={"model": "m", "input": "x"}, headers={"idempotency-key": key.encode()}
    )
    assert refusal(answer) == (400, "invalid_value", "Idempotency-Key")
    assert not backend.requests


async def test_a_key_and_a_turn_that_ends_with_its_client_exclude_each_other(caller, backend):
    answer = await ask(caller, "k", headers={"statecar-on-disconnect": "cancel"})
    assert refusal(answer) == (400, "mutually_exclusive_parameters", "statecar-on-disconnect")
    assert ok(await ask(caller, "k", headers={"statecar-on-disconnect": "detach"}))
    assert len(backend.requests) == 1


async def test_what_is_not_stored_is_made_each_time(caller, backend):
    for _ in range(2):
        assert not is_replayed(await ask(caller, "x" * 255, store=False))
    assert len(backend.requests) == 2


# -- what frees a key

REFUSED = {
    "by us": ({"previous_response_id": "resp_x"}, ()),
    "by the upstream": ({}, (json_reply({"error": {"message": "no"}}, status=500),)),
    "before its output": ({}, (STREAM_HEAD + chunked(sse(talk("")[0])), CLOSE)),
    "with output": ({}, (HALF, CLOSE)),
}


@BOTH
@pytest.mark.parametrize("background", [False, True], ids=["foreground", "background"])
@pytest.mark.parametrize("name", REFUSED)
async def test_what_failed_or_was_refused_frees_its_key(replicas, backend, name, background, streamed):
    fields, script = REFUSED[name]
    fields = {**fields, "stream": streamed, "background": background}
    if script:
        backend.script(*script)
    first = await ask(replicas[0], "k", **fields)
    if first.status_code == 200:
        await seen(replicas[0], response_of(first)["id"], "failed")
    else:
        assert first.status_code in (400, 500, 502)
    fields.pop("previous_response_id", None)
    text = "Ho" if name == "by us" else "Hi"
    second = await ask(replicas[1], "k", text, **fields)
    assert not is_replayed(second)
    assert (await seen(replicas[1], response_of(second)["id"], "completed"))["output"]
    assert is_replayed(await ask(replicas[0], "k", text, **fields))


async def test_who_waits_for_what_is_refused_makes_it_anew(replicas, backend):
    one, other = replicas
    go = asyncio.Event()
    backend.script(go, json_reply({"error": {"message": "no"}}, status=500))
    first = asyncio.create_task(ask(one, "k"))
    await backend.received(1)
    second = asyncio.create_task(ask(other, "k"))
    await asyncio.sleep(0.1)
    go.set()
    assert (await first).status_code == 500
    answer = await second
    assert (response_of(answer)["status"], is_replayed(answer)) == ("completed", False)


@BOTH
async def test_what_was_cancelled_or_deleted_frees_its_key(replicas, backend, streamed):
    one, other = replicas
    backend.script(HALF, NEVER())
    first = asyncio.create_task(ask(one, "k", stream=streamed))
    await backend.received(1)
    await cancelled(one, await run_of(one))
    assert response_of(await first)["status"] == "cancelled"
    second = response_of(await ask(other, "k", stream=streamed))
    assert second["status"] == "completed"
    ok(await one.http.delete(f"/responses/{second['id']}"))
    third = await ask(one, "k", "Another body", stream=streamed)
    assert not is_replayed(third) and response_of(third)["id"] != second["id"]


async def test_an_incomplete_response_stands_for_its_key(caller, backend):
    head, *_ = talk("Hi")
    cut = {**head, "choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "length"}]}
    backend.script(stream(head, cut, "[DONE]"))
    first = ok(await ask(caller, "k"))
    assert first["status"] == "incomplete"
    assert ok(await ask(caller, "k")) == first


@BOTH
async def test_who_leaves_before_the_first_event_frees_the_key(replicas, backend, streamed):
    backend.script(NEVER())
    async with sent_with_key(replicas[0], "k", stream=streamed):
        request = await backend.received(1)
    async with asyncio.timeout(PATIENCE):
        await request.gone.wait()
    answer = await ask(replicas[1], "k", "Leaving", stream=streamed)
    assert (response_of(answer)["status"], is_replayed(answer)) == ("completed", False)


async def test_what_is_over_the_limit_frees_its_key(calling, backend):
    caller = await calling("--max-tenant-runs=1")
    backend.default = (NEVER(),)
    held = ok(await caller.ask(background=True))
    await backend.received(1)
    backend.default = (stream(*talk("Hi")),)
    for background in (False, True):
        assert refusal(await ask(caller, f"k{background}", background=background)) == (429, "rate_limit_exceeded", None)
    await cancelled(caller, held["id"])
    for background in (False, True):
        assert not is_replayed(await ask(caller, f"k{background}", background=background))


# -- how long


async def test_the_events_of_a_keyed_stream_are_kept_as_long_as_its_key(calling, backend, valkey):
    for option, low, high in (("3600", 86000, 86400), ("100000", 90000, 100000), ("0", -1, -1)):
        caller = await calling(f"--event-log-ttl={option}")
        id_ = response_of(await ask(caller, "k", stream=True))["id"]
        with valkey.admin() as admin:
            assert low <= admin.ttl(events_key(id_)) <= high
    with valkey.admin() as admin:
        admin.delete(events_key(id_))
    assert refusal(await ask(caller, "k", stream=True)) == (400, None, None)
    assert (await caller.http.get(f"/responses/{id_}")).status_code == 200


async def test_a_keyed_stream_is_replayed_like_any(caller, backend):
    answer = await ask(caller, "k", stream=True)
    assert await replay(caller, response_of(answer)["id"]) == answer.content
