"""Turns that go on when their client leaves (wire §3.1): the same answer for who stays, a run for who has left."""

import asyncio
import json

import pytest

from proxy.state import runs
from tests import servers
from tests.backend import CLOSE, PATIENCE, STREAM_END, STREAM_HEAD, chunked, json_reply, sse, stream, talk
from tests.callers import COMMENT, Caller, error_of, frames, ok, refusal
from tests.golden.test_golden import renamed
from tests.routes.test_background import (
    ENDED,
    HALF,
    REST,
    apart,
    cancelled,
    events_key,
    eventually,
    made,
    replay,
    seen,
    text_of,
    written,
)
from tests.routes.test_leaving import sent
from tests.translate import rules

__all__ = ["apart"]  # a fixture for every test here

DETACH = {"statecar-on-disconnect": "detach"}
BOTH = pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
NEVER = asyncio.Event  # a step that nobody ends


@pytest.fixture
async def detaching(calling):
    """A caller whose turns go on without it."""
    return await calling("--on-disconnect=detach")


async def ask(caller, text="Hi", /, *, headers=DETACH, **fields):
    return await caller.http.post("/responses", json={"model": "m", "input": text} | fields, headers=headers)


async def left(caller, backend, *script, streamed, **fields):
    """The id of a turn that its client has left after the upstream had said this much."""
    backend.script(*script)
    count = len(backend.requests)
    async with sent(caller, stream=streamed, **fields) as reader:
        await backend.received(count + 1)
        if streamed:
            while not (line := await reader.readline()).startswith(b"data: "):
                pass
            return json.loads(line[6:])["response"]["id"]
        return await run_of(caller)


async def run_of(caller):
    """The id of the only run there is, whoever makes it."""

    async def look():
        found = caller.admin.zrange(caller.runs(), 0, -1)
        id_ = found and f"resp_{found[0][:22].hex()}0000"
        return id_ if id_ and (await caller.http.get(f"/responses/{id_}")).status_code == 200 else None

    return await eventually(look)


@pytest.fixture
def looked(detaching, valkey, apart):
    """The same caller, which can look up in the store what runs."""
    with valkey.admin() as admin:
        detaching.admin, detaching.runs = admin, lambda: runs.RUNS
        yield detaching


# -- for who stays

ANSWERS = {
    "an answer": (stream(*talk("Hel", "lo")),),
    "a refusal": (json_reply({"error": {"message": "no such model", "code": "gone"}}, status=404),),
    "too much": (json_reply({"error": {"message": "slow down"}}, status=429, headers=("retry-after: 7",)),),
    "an error in a stream": (stream({"error": {"message": "bad", "code": 400}}),),
    "nothing": (STREAM_HEAD, CLOSE),
    "an end without output": (STREAM_HEAD + chunked(sse(talk("")[0])), CLOSE),
    "an end in mid-stream": (HALF, CLOSE),
    "many words": (STREAM_HEAD + chunked(sse(*talk(*(["word "] * 1000)))) + STREAM_END,),
    "headers": (
        STREAM_HEAD.replace(b"\r\n\r\n", b"\r\nx-ratelimit-remaining-requests: 3\r\n\r\n") + chunked(sse(*talk("Hi"))),
        STREAM_END,
    ),
}


@BOTH
@pytest.mark.parametrize("name", ANSWERS)
async def test_who_stays_gets_the_same_answer(looked, backend, name, streamed):
    told, conversation = [], await looked.conversation()
    for headers in ({"statecar-on-disconnect": "cancel"}, DETACH):
        backend.script(*ANSWERS[name])
        answer = await ask(
            looked, headers=headers, stream=streamed, tools=[{"type": "web_search"}], conversation=conversation
        )
        assert not looked.admin.exists(f"sc:{{{conversation[5:21]}}}:k")  # it is free
        known = {key: value for key, value in answer.headers.items() if key not in ("x-request-id", "content-length")}
        is_stream = answer.headers["content-type"].startswith("text/event-stream")
        body = frames(answer.content) if is_stream else [answer.json()]
        told.append((answer.status_code, known, renamed(body)))
    assert told[0] == told[1]
    await eventually(lambda: none_left(looked))
    assert len((await looked.get("/responses"))["data"]) in (0, 2)


async def none_left(caller):
    return not caller.admin.zcard(caller.runs())


async def test_silences_are_filled_as_ever_and_the_log_has_what_was_sent(calling, backend):
    caller = await calling("--sse-keepalive-seconds=0.02", "--early-stream-after-seconds=0.02")
    go, more = asyncio.Event(), asyncio.Event()
    backend.script(go, HALF, more, REST)
    told = []
    async with caller.http.stream(
        "POST", "/responses", json={"model": "m", "input": "x", "stream": True}, headers=DETACH
    ) as answer:
        async for part in answer.aiter_raw():
            told.append(part)
            if b"".join(told).count(b"event: response.in_progress") > 3:
                go.set()
            if b"".join(told).count(b": keepalive") > 3:
                more.set()
    whole = b"".join(told)
    events = [frame for frame in frames(whole)[:-1] if frame != COMMENT]
    rules.check(events)
    assert events[-1]["response"]["status"] == "completed"
    assert await replay(caller, events[0]["response"]["id"]) == whole.replace(b": keepalive\n\n", b"")


async def test_the_clock_and_the_upstream_may_speak_at_once(calling, backend):
    caller = await calling("--sse-keepalive-seconds=0.001", "--early-stream-after-seconds=0.001")
    for turn in range(15):
        go = asyncio.Event()
        asyncio.get_running_loop().call_later(0.002 + turn * 0.0004, go.set)
        backend.script(go, stream(*talk("Hi")) if turn % 3 else json_reply({"error": "no"}, status=400))
        answer = await ask(caller, stream=True)
        if answer.status_code == 200:
            events = [frame for frame in frames(answer.content)[:-1] if frame != COMMENT]
            rules.check(events)
            log = frames(await replay(caller, events[0]["response"]["id"]))[:-1]
            assert [frame for frame in log if frame != COMMENT] == events


async def test_a_refusal_that_comes_while_the_clock_opens_the_stream_is_told_in_it(calling, backend, own, monkeypatch):
    caller = await calling("--early-stream-after-seconds=0.02", store=own.url)
    create, creating, refuse, go = runs.Runs.create, asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(self, run, lease):
        creating.set()
        await go.wait()
        await create(self, run, lease)

    monkeypatch.setattr(runs.Runs, "create", slow)
    backend.script(refuse, json_reply({"error": {"message": "no such model"}}, status=404))
    waiting = asyncio.create_task(ask(caller, stream=True))
    await creating.wait()
    refuse.set()
    await asyncio.sleep(0.1)
    go.set()
    answer = await waiting
    events = [frame for frame in frames(answer.content)[:-1] if frame != COMMENT]
    rules.check(events)
    last = events[-1]["response"]
    assert (last["status"], last["error"]["message"]) == ("failed", "no such model")
    assert await replay(caller, last["id"]) == answer.content
    with own.admin() as admin:
        assert not admin.keys("sc:*:j:*")


@pytest.mark.parametrize("more", [{}, {"idempotency-key": "k"}], ids=["", "with a key"])
async def test_what_is_no_way_to_leave_is_refused(caller, backend, more):
    answer = await ask(caller, headers={"statecar-on-disconnect": "stay", **more})
    assert refusal(answer) == (400, "invalid_value", "statecar-on-disconnect")
    assert "'stay'" in error_of(answer)["message"] and "'detach'" in error_of(answer)["message"]
    assert not backend.requests


# -- for who has left


@BOTH
async def test_a_turn_goes_on_when_its_client_leaves(looked, backend, serve, streamed):
    other = Caller(await serve(), looked.key)
    conversation, go = await looked.conversation(), asyncio.Event()
    id_ = await left(looked, backend, HALF, go, REST, streamed=streamed, conversation=conversation)
    async with other:
        found = await seen(other, id_, "in_progress")
        assert found["background"] is False
        if streamed:
            await written(other, id_, "Hel")
        assert refusal(await other.ask("x", previous_response_id=id_)) == (400, None, "previous_response_id")
        assert refusal(await other.http.delete(f"/responses/{id_}")) == (400, None, None)
        assert refusal(await other.ask("x", conversation=conversation))[1] == "conversation_locked"
        answer = await other.http.get(f"/responses/{id_}", params={"stream": "true"}) if not streamed else None
        reading = asyncio.create_task(replay(other, id_)) if streamed else None
        await asyncio.sleep(0.05)
        go.set()
        last = await seen(other, id_, *ENDED)
        assert (last["status"], text_of(last)) == ("completed", "Hello")
        assert await other.texts(conversation) == ["Leaving", "Hello"]
        if reading:
            events = frames(await reading)[:-1]
            rules.check(events)
            assert events[-1]["response"] == last
        else:
            assert refusal(answer) == (400, None, "stream")
            assert "stream=true" in error_of(answer)["message"]
        assert refusal(await other.http.post(f"/responses/{id_}/cancel")) == (400, None, None)
    await eventually(lambda: none_left(looked))
    assert len(backend.requests) == 1


@BOTH
async def test_who_leaves_before_the_first_event_takes_the_turn_along(looked, backend, streamed):
    conversation = await looked.conversation()
    for script in ((), (STREAM_HEAD,)):
        backend.script(*script, NEVER())
        count = len(backend.requests)
        async with sent(looked, stream=streamed, conversation=conversation):
            request = await backend.received(count + 1)
        async with asyncio.timeout(PATIENCE):
            await request.gone.wait()
    assert (await looked.get("/responses"))["data"] == [] == looked.admin.zrange(looked.runs(), 0, -1)
    await ask(looked, "Next", conversation=conversation)
    assert await looked.texts(conversation) == ["Next", "Hi"]


@pytest.mark.parametrize("headers", [{"statecar-on-disconnect": "cancel"}, {}], ids=["by header", "not stored"])
async def test_a_turn_that_is_not_detached_ends_with_its_client(looked, backend, headers):
    looked.http.headers.update(headers)
    backend.script(HALF, NEVER())
    async with looked.opened("Hi", store=bool(headers)) as opened:
        await opened.until("response.output_text.delta")
    async with asyncio.timeout(PATIENCE):
        await backend.requests[0].gone.wait()
    assert looked.admin.zrange(looked.runs(), 0, -1) == []


@BOTH
async def test_what_fails_without_its_client_is_kept_as_failed(looked, backend, caplog, streamed):
    caplog.set_level("INFO", "statecar.access")
    go = asyncio.Event()
    script = STREAM_HEAD + chunked(sse(talk("")[0])), go, CLOSE
    id_ = await left(looked, backend, *script, streamed=streamed)
    await eventually(lambda: was_left(caplog))
    go.set()
    assert (await seen(looked, id_, "failed"))["output"] == []


@BOTH
@pytest.mark.parametrize("stays", [False, True], ids=["left", "stays"])
async def test_it_is_cancelled_like_any_run(looked, backend, streamed, stays):
    script = HALF, NEVER()
    if stays:
        backend.script(*script)
        waiting = asyncio.create_task(ask(looked, stream=streamed))
        id_ = await run_of(looked)
    else:
        id_ = await left(looked, backend, *script, streamed=streamed)
    last = await cancelled(looked, id_)
    assert last["status"] == "cancelled"
    assert await cancelled(looked, id_) == last
    async with asyncio.timeout(PATIENCE):
        await backend.requests[0].gone.wait()
    if stays:
        answer = await waiting
        assert (frames(answer.content)[-2]["response"] if streamed else ok(answer)) == last


async def test_events_are_kept_for_a_while(looked, backend):
    backend.script(stream(*talk("Hi")))
    events = frames((await ask(looked, stream=True)).content)[:-1]
    id_ = events[0]["response"]["id"]
    assert 3000 < looked.admin.ttl(events_key(id_)) <= 3600
    looked.admin.delete(events_key(id_))
    answer = await looked.http.get(f"/responses/{id_}", params={"stream": "true"})
    assert refusal(answer) == (400, None, "stream")
    assert "stream=true" in error_of(answer)["message"]


# -- limits


@BOTH
async def test_the_limits_of_runs_hold_and_what_they_refuse_leaves_nothing(calling, backend, streamed):
    caller = await calling("--max-tenant-runs=1", "--on-disconnect=detach", "--early-stream-after-seconds=0.05")
    backend.default = (HALF, NEVER())
    first = await made(caller)
    conversation = await caller.conversation()
    answer = await ask(caller, stream=streamed, conversation=conversation)
    assert refusal(answer) == (429, "rate_limit_exceeded", None)
    assert answer.headers["retry-after"] == "5"
    await eventually(lambda: gone(backend.requests[-1]))
    backend.default = (asyncio.Event(),)
    if streamed:  # opened by the clock, before the upstream has answered
        assert refusal(await ask(caller, stream=True, conversation=conversation)) == (429, "rate_limit_exceeded", None)
        await eventually(lambda: gone(backend.requests[-1]))
    await cancelled(caller, first["id"])
    backend.default = (stream(*talk("Hi")),)
    await ask(caller, "Next", conversation=conversation)
    assert await caller.texts(conversation) == ["Next", "Hi"]


async def gone(request):
    return request.gone.is_set()


async def test_it_neither_waits_for_room_nor_takes_any(calling, backend):
    caller = await calling("--worker-runs=1", "--on-disconnect=detach")
    backend.script(NEVER())
    first = await made(caller)
    await backend.received(1)
    assert ok(await ask(caller))["status"] == "completed"
    backend.script(HALF, NEVER())
    async with caller.opened("Hi") as opened:
        id_ = (await opened.frame())["response"]["id"]
        await cancelled(caller, first["id"])
        await seen(caller, (await made(caller))["id"], "completed")
    await cancelled(caller, id_)


# -- what operators see


@BOTH
@pytest.mark.parametrize("stays", [False, True], ids=["left", "stays"])
async def test_a_turn_and_its_tokens_are_counted_once(looked, backend, caplog, streamed, stays):
    caplog.set_level("INFO", "statecar.access")
    go = asyncio.Event()
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    *begun, stop, done = talk("Hi")
    script = STREAM_HEAD + chunked(sse(*begun)), go, chunked(sse({**stop, "usage": usage}, done)) + STREAM_END
    if stays:
        backend.script(*script)
        go.set()
        answer = await ask(looked, stream=streamed, model="m-seen")
        assert answer.status_code == 200
        first = answer.json() if not streamed else frames(answer.content)[-2]["response"]
        id_ = first["id"]
    else:
        id_ = await left(looked, backend, *script, streamed=streamed, model="m-seen")
        await eventually(lambda: was_left(caplog))
        go.set()
    await seen(looked, id_, "completed")
    wanted = {
        f'statecar_turns_total{{model="m-seen",status="{"completed" if stays else "left"}"}} 1.0',
        'statecar_runs_total{model="m-seen",status="completed"} 1.0',
        'statecar_output_tokens_total{model="m-seen"} 7.0',
        "statecar_open_runs 0.0",
        "statecar_open_streams 0.0",
    }

    async def told():
        found = await looked.http.get(looked.http.base_url.join("/metrics"))
        return wanted <= set(found.text.splitlines())

    await eventually(told)
    [line] = [
        record.fields for record in caplog.records if record.name == "statecar.access" and "model" in record.fields
    ]
    assert line["response"] == id_
    assert ("first_event_ms" in line) == streamed
    assert (line.get("response_status"), line.get("output_tokens")) == (("completed", 7) if stays else (None, None))
    assert not stays or line["ms"] >= line["own_ms"] >= 0


async def was_left(caplog):
    return any(record.fields.get("status") == 499 for record in caplog.records if record.name == "statecar.access")


# -- the store


async def test_a_store_that_hangs_as_it_becomes_a_run_leaves_nothing_of_it(calling, backend, tmp_path_factory):
    store = servers.Server.on_socket(servers.valkey_binary(), tmp_path_factory.mktemp("s"))
    try:
        caller, go = await calling("--on-disconnect=detach", store=store.url), asyncio.Event()
        conversation = await caller.conversation()
        backend.script(go, HALF, NEVER())
        waiting = asyncio.create_task(caller.ask(conversation=conversation))
        request = await backend.received(1)
        store.pause()
        go.set()
        assert refusal(await waiting) == (503, "store_unavailable", None)
        assert await eventually(lambda: gone(request))
        store.resume()  # and does all that it was asked for
        with store.admin() as admin:
            caller.admin, caller.runs = admin, lambda: runs.RUNS
            await eventually(lambda: none_left(caller))
            await asyncio.sleep(0.2)
            await eventually(lambda: is_free(admin))
    finally:
        store.resume()
        store.stop()


async def is_free(admin):
    return not admin.keys("sc:*:j:*") and not admin.keys("sc:*:k")
