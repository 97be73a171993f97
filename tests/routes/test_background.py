"""Background responses (wire §3.1–§3.4, §10.5): made whoever leaves, seen as they grow, cancelled, limited."""

import asyncio
import json
import random
import secrets

import pytest

from proxy.state import Runs
from tests import servers
from tests.backend import CLOSE, DONE, PATIENCE, STREAM_END, STREAM_HEAD, chunk, chunked, json_reply, sse, stream, talk
from tests.callers import Caller, error_of, ok, refusal, unframed
from tests.golden.scripts import texts
from tests.golden.test_golden import golden, renamed
from tests.live import strict
from tests.translate import rules

HALF = STREAM_HEAD + chunked(sse(*talk("Hel")[:2]))
REST = chunked(sse(*talk("lo")[1:])) + STREAM_END
ENDED = ("completed", "incomplete", "failed", "cancelled")


@pytest.fixture(autouse=True)
def apart(monkeypatch):
    """No other test's server takes up what these have left."""
    monkeypatch.setattr("proxy.state.runs.RUNS", f"sc:runs:{secrets.token_hex(8)}")


async def made(caller, text="Hi", /, **fields):
    """A background response as it was accepted."""
    return strict.response(await caller.create(text, background=True, **fields))


async def eventually(look):
    """The first true value of what is awaited again and again."""
    async with asyncio.timeout(PATIENCE):
        while True:
            if found := await look():
                return found
            await asyncio.sleep(0.01)


async def seen(caller, id_, *states):
    """The response, once it has come to one of these states."""

    async def look():
        found = strict.response(await caller.get(f"/responses/{id_}"))
        return found if found["status"] in states else None

    return await eventually(look)


async def written(caller, id_, text):
    """The response, once its output holds this text."""

    async def look():
        found = strict.response(await caller.get(f"/responses/{id_}"))
        return found if text in json.dumps(found["output"]) else None

    return await eventually(look)


async def replay(caller, id_, after=None):
    """The bytes of the events, from the beginning or after a number."""
    query = {"stream": "true"} | ({} if after is None else {"starting_after": after})
    answer = await caller.http.get(f"/responses/{id_}", params=query)
    assert answer.status_code == 200, answer.text
    return answer.content


async def cancelled(caller, id_):
    return strict.response(ok(await caller.http.post(f"/responses/{id_}/cancel")))


def nameless(*args):
    """A chunk that names no model."""
    return {key: value for key, value in chunk(*args).items() if key != "model"}


def events_key(id_):
    return f"sc:{{{id_[5:21]}}}:e:{id_[21:49]}"


def text_of(response):
    return response["output"][0]["content"][0]["text"]


# -- a life


async def test_a_response_is_queued_then_in_progress_then_completed(caller, backend):
    go, more = asyncio.Event(), asyncio.Event()
    backend.script(go, STREAM_HEAD, chunked(sse(*talk("Hello")[:2])), more, REST)
    first = await made(caller)
    assert (first["status"], first["output"], first["background"]) == ("queued", [], True)
    await seen(caller, first["id"], "in_progress")
    go.set()
    more.set()
    last = await seen(caller, first["id"], *ENDED)
    assert (last["status"], text_of(last)) == ("completed", "Hellolo")
    assert {**last, "status": 0, "output": 0, "usage": 0, "completed_at": 0, "service_tier": 0} == {
        **first,
        "status": 0,
        "output": 0,
        "usage": 0,
        "completed_at": 0,
        "service_tier": 0,
    }
    page = await caller.get("/responses")
    assert [row["id"] for row in page["data"]] == [first["id"]]


async def test_the_stream_is_the_golden_one_and_is_replayed_byte_for_byte(serve, backend):
    urls = [await serve(), await serve()]
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
    backend.script(stream(*map(nameless, texts("Done.")), {**nameless({}, "stop"), "usage": usage}, DONE))
    async with Caller(urls[0]) as caller, Caller(urls[1], caller.key) as other:
        answer = await caller.ask("Go on", model="mock-model", stream=True, background=True)
        events = unframed(answer.content)
        assert renamed(events) == renamed(golden("background"))
        rules.check(events)
        assert await caller.get(f"/responses/{events[0]['response']['id']}") == events[-1]["response"]
        cuts = [0, *[at + 2 for at in range(len(answer.content)) if answer.content[at : at + 2] == b"\n\n"]]
        for reader in (caller, other):
            assert await replay(reader, events[0]["response"]["id"]) == answer.content
            for after in range(len(events)):
                assert await replay(reader, events[0]["response"]["id"], after) == answer.content[cuts[after + 1] :]
            assert await replay(reader, events[0]["response"]["id"], 10**30) == b"data: [DONE]\n\n"


async def test_readers_that_come_while_it_is_made_get_the_same_stream(serve, backend):
    urls = [await serve(), await serve()]
    go = asyncio.Event()
    backend.script(HALF, go, REST)
    async with Caller(urls[0]) as caller, Caller(urls[1], caller.key) as other:
        async with caller.opened("Hi", background=True) as opened:
            id_ = (await opened.frame())["response"]["id"]
            await opened.until("response.output_text.delta")
            reading = [
                asyncio.create_task(replay(reader, id_, after)) for reader in (caller, other) for after in (None, 3)
            ]
            await asyncio.sleep(0.1)
        go.set()  # who asked for it has left
        whole, part, *rest = await asyncio.gather(*reading)
    events = unframed(whole)
    rules.check(events)
    assert text_of(events[-1]["response"]) == "Hello"
    assert [whole, part] == rest
    assert unframed(part) == events[4:]


async def test_nobody_hears_of_an_event_before_it_is_in_the_log(calling, backend, tmp_path_factory):
    store, go = servers.Server.on_socket(servers.valkey_binary(), tmp_path_factory.mktemp("s")), asyncio.Event()
    caller = await calling(store=store.url)
    backend.script(HALF, go, REST)
    try:
        async with caller.opened(background=True) as stream:
            await stream.until("response.output_text.delta")
            store.pause()
            go.set()
            hearing = asyncio.create_task(stream.until("response.output_text.delta"))
            assert not (await asyncio.wait([hearing], timeout=0.3))[0]
            store.resume()
            assert (await hearing)["delta"] == "lo"
    finally:
        store.resume()
        store.stop()


async def test_what_is_in_flight_shows_what_was_told_and_what_it_answers(caller, backend):
    go = asyncio.Event()
    backend.script(HALF, go, REST)
    async with caller.opened("Question", background=True) as opened:
        id_ = (await opened.frame())["response"]["id"]
    found = await written(caller, id_, "Hel")
    assert (found["status"], found["output"][0]["status"]) == ("in_progress", "in_progress")
    rows = strict.item_list(await caller.get(f"/responses/{id_}/input_items"))
    assert [row["content"][0]["text"] for row in rows] == ["Question"]
    assert refusal(await caller.http.delete(f"/responses/{id_}")) == (400, None, None)
    answer = await caller.ask(previous_response_id=id_)
    assert refusal(answer) == (400, None, "previous_response_id")
    assert (await caller.get("/responses"))["data"] == []
    go.set()
    last = await seen(caller, id_, "completed")
    assert strict.item_list(await caller.get(f"/responses/{id_}/input_items")) == rows
    backend.script(json_reply({"choices": [{"message": {"content": "Yes"}, "finish_reason": "stop"}]}))
    await caller.create("And?", previous_response_id=id_)
    said = [message["content"] for message in backend.requests[-1].json["messages"]]
    assert said == ["Question", text_of(last), "And?"]
    assert ok(await caller.http.delete(f"/responses/{id_}"))["deleted"]
    assert (await caller.http.get(f"/responses/{id_}", params={"stream": "true"})).status_code == 404


async def test_a_deleted_response_leaves_no_events_behind(caller, backend, valkey):
    backend.script(stream(*talk("planted-text")))
    id_ = (await caller.events(background=True))[0]["response"]["id"]
    with valkey.admin() as admin:
        assert admin.exists(events_key(id_))
        ok(await caller.http.delete(f"/responses/{id_}"))
        assert not admin.exists(events_key(id_))


async def test_a_conversation_is_locked_until_the_response_is_in_it_once(caller, backend):
    conversation, go = await caller.conversation(), asyncio.Event()
    backend.script(HALF, go, REST)
    first = await made(caller, "One", conversation=conversation)
    assert first["conversation"] == {"id": conversation}
    await backend.received(1)
    assert refusal(await caller.ask("Two", conversation=conversation)) == (400, "conversation_locked", "conversation")
    go.set()
    await seen(caller, first["id"], "completed")
    await caller.create("Three", conversation=conversation)
    assert await caller.texts(conversation) == ["One", "Hello", "Three", "Hi"]
    assert len(backend.requests[-1].json["messages"]) == 3


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_upstream_is_always_asked_for_a_stream(calling, backend, streamed):
    """Whatever suits plain requests: an answer that takes an hour must not look like silence."""
    caller = await calling("--upstream-stream=never")
    backend.script(stream(*talk("Hi")))
    response = (await caller.create(background=True)) if not streamed else (await caller.events(background=True))[-1]
    await seen(caller, response.get("id") or response["response"]["id"], "completed")
    assert backend.requests[-1].json["stream"] is True


# -- cancelling


async def test_the_cancelled_stream_is_the_golden_one(caller, backend):
    backend.script(STREAM_HEAD + chunked(sse(*map(nameless, texts("Once")))), asyncio.Event())
    async with caller.opened("Go on", model="mock-model", background=True) as opened:
        events = [await opened.frame()]
        while events[-1]["type"] != "response.output_text.delta":
            events.append(await opened.frame())
        answer = await cancelled(caller, events[0]["response"]["id"])
        *rest, done = await opened.rest()
    events += rest
    assert done == DONE
    assert renamed(events) == renamed(golden("cancelled"))
    rules.check(events)
    assert answer == events[-1]["response"] == await cancelled(caller, answer["id"])
    assert await caller.get(f"/responses/{answer['id']}") == answer
    async with asyncio.timeout(PATIENCE):
        await backend.requests[-1].gone.wait()


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("said", [b"", HALF], ids=["waiting", "talking"])
async def test_a_cancel_reaches_the_process_that_makes_it(serve, backend, streamed, elsewhere, said):
    urls = [await serve(), await serve()]
    backend.script(said, asyncio.Event())
    async with Caller(urls[0]) as caller, Caller(urls[elsewhere], caller.key) as other:
        conversation = await caller.conversation()
        async with caller.http.stream(
            "POST",
            "/responses",
            json={"model": "m", "input": "x", "background": True, "stream": streamed, "conversation": conversation},
        ) as answer:
            assert answer.status_code == 200
            request = await backend.received(1)
            id_ = await _id_of(answer, streamed)
            last = await cancelled(other, id_)
        assert last["status"] == "cancelled"
        async with asyncio.timeout(PATIENCE):
            await request.gone.wait()
        assert await caller.texts(conversation) == []
        await caller.create("Next", conversation=conversation)


async def _id_of(answer, streamed):
    if not streamed:
        return json.loads(await answer.aread())["id"]
    async for line in answer.aiter_lines():
        if line.startswith("data: "):
            return json.loads(line[6:])["response"]["id"]


async def test_what_cannot_be_cancelled_says_so_and_what_has_ended_stays_as_it_is(serve, caller, backend, url):
    plain = await caller.create()
    assert refusal(await caller.http.post(f"/responses/{plain['id']}/cancel")) == (400, None, None)
    last = await seen(caller, (await made(caller))["id"], "completed")
    assert await cancelled(caller, last["id"]) == last
    backend.script(asyncio.Event())
    running = await made(caller)
    async with Caller(url) as stranger:
        for id_ in (running["id"], last["id"], "resp_x"):
            assert (await stranger.http.post(f"/responses/{id_}/cancel")).status_code == 404
        for path in ("", "/input_items", "?stream=true"):
            assert (await stranger.http.get(f"/responses/{running['id']}{path}")).status_code == 404
        assert (await stranger.http.delete(f"/responses/{running['id']}")).status_code == 404
        answer = await stranger.ask(previous_response_id=running["id"])
        assert refusal(answer) == (400, "previous_response_not_found", "previous_response_id")
    assert (await caller.get(f"/responses/{running['id']}"))["status"] in ("queued", "in_progress")
    await cancelled(caller, running["id"])


async def test_a_cancel_that_races_with_the_end_leaves_one_end(serve, backend):
    urls, chance, ends = [await serve(), await serve()], random.Random(1), set()
    async with Caller(urls[0]) as caller, Caller(urls[1], caller.key) as other:
        for turn in range(30):
            backend.script(stream(*talk("Hel", "lo")))
            async with caller.opened("Hi", background=True) as opened:
                id_ = (await opened.frame())["response"]["id"]
                await asyncio.sleep(chance.uniform(0, 0.015))
                last = await cancelled((caller, other)[turn % 2], id_)
                events = [
                    json.loads(line[6:])
                    for line in (await replay(other, id_)).decode().splitlines()
                    if line.startswith("data: {")
                ]
            rules.check(events)
            assert events[-1]["response"] == last == await caller.get(f"/responses/{id_}")
            ends.add(last["status"])
    assert ends <= {"cancelled", "completed"}


# -- refusals and limits


async def test_what_cannot_be_streamed_says_so(caller, backend):
    cases = [((await caller.create())["id"], "background"), ((await made(caller))["id"], "stream")]
    for id_, missing in cases:
        answer = await caller.http.get(f"/responses/{id_}", params={"stream": "true"})
        assert refusal(answer) == (400, None, "stream")
        assert f"{missing}=true" in error_of(answer)["message"]
    assert refusal(await caller.ask(background=True, store=False)) == (400, "unsupported_parameter", "background")
    answer = await caller.http.get(f"/responses/{cases[1][0]}", params={"stream": "true", "starting_after": "-1"})
    assert answer.status_code == 400


async def test_what_is_refused_before_it_is_accepted_is_an_http_error(caller, backend):
    answer = await caller.ask(background=True, previous_response_id="resp_x")
    assert refusal(answer) == (400, "previous_response_not_found", "previous_response_id")
    assert (await caller.ask(background=True, conversation=f"conv_{'0' * 48}")).status_code == 404


@pytest.mark.parametrize("streamed", [False, True])
async def test_what_the_upstream_refuses_becomes_a_failed_response(caller, backend, streamed):
    backend.script(json_reply({"error": {"message": "no such model", "code": "model_not_found"}}, status=404))
    if streamed:
        events = await caller.events(background=True)
        rules.check(events)
        last = events[-1]["response"]
    else:
        last = await made(caller)
    last = await seen(caller, last["id"], "failed")
    assert last["error"]["message"] == "no such model"


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_upstream_that_breaks_off_leaves_what_it_said(caller, backend, streamed):
    backend.script(HALF, CLOSE)
    id_ = (await caller.events(background=True))[0]["response"]["id"] if streamed else (await made(caller))["id"]
    last = await seen(caller, id_, *ENDED)
    assert (last["status"], text_of(last), last["output"][0]["status"]) == ("failed", "Hel", "incomplete")


async def test_the_limits_of_runs_are_kept(serve, backend):
    backend.default = (asyncio.Event(),)
    url = await serve("--max-runs=3", "--max-tenant-runs=2")
    async with Caller(url) as one, Caller(url) as two:
        ids = [(await made(one))["id"] for _ in range(2)]
        for caller, whose in ((one, "you have"), (two, "this server has")):
            answer = await caller.ask(background=True)
            if caller is two:
                assert answer.status_code == 200  # the third of all
                answer = await two.ask(background=True)
            assert refusal(answer) == (429, "rate_limit_exceeded", None)
            assert whose in error_of(answer)["message"]
            assert answer.headers["retry-after"] == "5"
        await cancelled(one, ids[0])
        await made(two)


async def test_what_a_worker_has_no_room_for_waits_and_can_be_cancelled(calling, backend):
    caller, go = await calling("--worker-runs=1"), asyncio.Event()
    backend.script(go, stream(*talk("One")))
    first, second, third = [(await made(caller))["id"] for _ in range(3)]
    await backend.received(1)
    assert (await caller.get(f"/responses/{third}"))["status"] == "queued"
    assert (await cancelled(caller, second))["status"] == "cancelled"
    assert len(backend.requests) == 1
    go.set()
    for id_ in (first, third):
        await seen(caller, id_, "completed")
    assert len(backend.requests) == 2


async def test_a_response_that_takes_too_long_fails_with_what_it_has(calling, backend):
    caller = await calling("--background-timeout=1")
    backend.script(HALF, asyncio.Event())
    events = await caller.events(background=True)
    rules.check(events)
    last = events[-1]["response"]
    assert (last["status"], text_of(last)) == ("failed", "Hel")
    assert "longer than the 1 s" in last["error"]["message"]


async def test_a_response_with_too_many_events_fails_with_what_it_has(calling, backend):
    caller = await calling("--event-log-limit=20000")
    backend.script(STREAM_HEAD, *[chunked(sse(chunk({"content": "x" * 1000})))] * 30, asyncio.Event())
    events = await caller.events(background=True)
    rules.check(events)
    assert events[-1]["response"]["error"]["message"].startswith("The response has more events")
    assert len(text_of(events[-1]["response"])) > 5000


async def test_events_are_kept_for_a_while_after_the_end(calling, backend, valkey):
    caller = await calling("--event-log-ttl=50")
    id_ = (await caller.events(background=True))[0]["response"]["id"]
    with valkey.admin() as admin:
        assert 40 < admin.ttl(events_key(id_)) <= 50
        admin.delete(events_key(id_))
    answer = await caller.http.get(f"/responses/{id_}", params={"stream": "true"})
    assert refusal(answer) == (400, None, "stream")


async def test_readers_beyond_the_most_are_told_to_come_again(calling, backend):
    caller, go = await calling("--max-followers=1"), asyncio.Event()
    backend.script(HALF, go, REST)
    async with caller.opened("Hi", background=True) as opened:
        id_ = (await opened.frame())["response"]["id"]
        for answer in (
            await caller.http.get(f"/responses/{id_}", params={"stream": "true"}),
            await caller.ask(background=True, stream=True),
        ):
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        await caller.get(f"/responses/{id_}")
        go.set()
        await opened.rest()
    assert len(backend.requests) == 1
    await replay(caller, id_)


async def test_many_readers_elsewhere_leave_connections_for_everybody_else(serve, backend):
    urls = [await serve("--store-connections=2"), await serve("--store-connections=2")]
    go = asyncio.Event()
    backend.script(HALF, go, REST)
    async with Caller(urls[0]) as caller, Caller(urls[1], caller.key) as other:
        async with caller.opened("Hi", background=True) as opened:
            id_ = (await opened.frame())["response"]["id"]
        reading = [asyncio.create_task(replay(other, id_)) for _ in range(20)]
        await written(other, id_, "Hel")
        for _ in range(5):
            await other.create()
        go.set()
        assert len(set(await asyncio.gather(*reading))) == 1


# -- what operators see


async def test_a_run_is_counted_and_its_request_goes_on_upstream(calling, backend):
    caller = await calling()
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    backend.script(stream(*talk("Hi")[:-1], {"choices": [], "usage": usage}, DONE))
    answer = await caller.http.post(
        "/responses", json={"model": "m-run", "input": "x", "background": True}, headers={"x-request-id": "trace-7"}
    )
    assert answer.headers["x-request-id"] == "trace-7"
    await seen(caller, ok(answer)["id"], "completed")
    assert backend.requests[-1].values("x-request-id")[0].startswith("trace-7-")
    wanted = {
        'statecar_runs_total{model="m-run",status="completed"} 1.0',
        'statecar_output_tokens_total{model="m-run"} 7.0',
        "statecar_open_runs 0.0",
    }

    async def told():
        found = await caller.http.get(caller.http.base_url.join("/metrics"))
        return wanted <= set(found.text.splitlines())

    await eventually(told)


async def test_tools_that_are_left_out_are_told_of_when_it_is_accepted(caller, backend):
    answer = await caller.ask(background=True, tools=[{"type": "web_search"}])
    assert answer.headers["statecar-dropped-tools"] == "web_search"
    await seen(caller, ok(answer)["id"], "completed")


@pytest.mark.parametrize("what", ["continued", "looked into", "deleted"])
async def test_what_ends_while_it_is_looked_for_is_found(caller, backend, monkeypatch, what):
    go, load = asyncio.Event(), Runs.load
    backend.script(go, stream(*talk("Hi")))
    id_ = (await made(caller))["id"]

    async def late(self, id_, tenant):
        go.set()
        await seen(caller, id_, "completed")
        return await load(self, id_, tenant)

    monkeypatch.setattr(Runs, "load", late)
    if what == "continued":
        assert (await caller.create("Go on", previous_response_id=id_))["status"] == "completed"
    elif what == "looked into":
        assert len((await caller.get(f"/responses/{id_}/input_items"))["data"]) == 1
    else:
        assert ok(await caller.http.delete(f"/responses/{id_}"))["deleted"]
