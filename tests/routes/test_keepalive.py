"""Streams in silence: repeated ``in_progress`` before the first item, comments later, and early starts (wire §9.9)."""

import asyncio
import json
from itertools import pairwise

import pytest

from tests.backend import STREAM_END, STREAM_HEAD, chunk, chunked, completion, json_reply, sse, stream, talk
from tests.callers import COMMENT, DONE, refusal
from tests.live import strict

BEGUN = STREAM_HEAD + chunked(sse(chunk({"role": "assistant", "content": ""})))
SOON = "--sse-keepalive-seconds=0.02"
EARLY = "--early-stream-after-seconds=0.02"


@pytest.mark.parametrize("early", [EARLY, "--early-stream-after-seconds=25", "--early-stream-after-seconds=0"])
async def test_before_the_first_item_silence_repeats_in_progress(calling, backend, early):
    caller = await calling(SOON, early)
    go = asyncio.Event()
    backend.script(BEGUN, go, chunked(sse(*talk("Hi"))) + STREAM_END)
    async with caller.opened() as opened:
        events = [await opened.frame() for _ in range(5)]
        assert [one["type"] for one in events[1:]] == ["response.in_progress"] * 4
        assert [one["response"] for one in events[2:]] == [events[1]["response"]] * 3
        go.set()
        events += await opened.rest()
    assert events.pop() == DONE
    strict.stream([one for one in events if one != COMMENT])


@pytest.mark.parametrize("early", [EARLY, "--early-stream-after-seconds=25", "--early-stream-after-seconds=0"])
async def test_after_the_first_item_silence_is_filled_with_comments(calling, backend, early):
    caller = await calling(SOON, early)
    go = asyncio.Event()
    backend.script(BEGUN + chunked(sse(chunk({"content": "Hel"}))), go, chunked(sse(*talk("lo"))) + STREAM_END)
    async with caller.opened() as opened:
        frames = [await opened.until("response.output_text.delta")]
        frames = [await opened.frame() for _ in range(3)]
        assert frames == [COMMENT] * 3
        go.set()
        rest = await opened.rest()
    assert rest[-2]["response"]["output"][0]["content"][0]["text"] == "Hello"
    assert rest[-1] == DONE


async def test_a_stream_that_is_never_silent_gets_no_keepalive(calling, backend):
    caller = await calling("--sse-keepalive-seconds=0.3")
    clock = asyncio.get_running_loop().time
    words = [asyncio.Event() for _ in range(20)]
    steps = [step for word in words for step in (word, chunked(sse(chunk({"content": "word "}))))]
    backend.script(BEGUN, *steps, chunked(sse(*talk("end"))) + STREAM_END)
    frames, times = [], [clock()]
    async with caller.opened() as opened:
        for word in words:
            word.set()
            while "delta" not in (frame := await opened.frame()):
                frames.append(frame)
            times.append(clock())
            await asyncio.sleep(0.05)  # a token's time
        frames += await opened.rest()
    silence = max(later - earlier for earlier, later in pairwise(times))
    assert COMMENT not in frames or silence > 0.2  # then the machine was too busy to show anything


@pytest.mark.parametrize("option", ["--no-sse-comments", "--sse-keepalive-seconds=0"])
async def test_comments_can_be_turned_off(calling, backend, option):
    caller = await calling(SOON, option)
    go = asyncio.Event()
    backend.script(BEGUN + chunked(sse(chunk({"content": "Hel"}))), go, chunked(sse(*talk("lo"))) + STREAM_END)
    async with caller.opened() as opened:
        await opened.until("response.output_text.delta")
        await asyncio.sleep(0.1)  # several times the silence that would be filled
        go.set()
        assert COMMENT not in await opened.rest()


async def test_a_silent_upstream_does_not_keep_the_stream_from_beginning(calling, backend):
    caller = await calling(EARLY, SOON)
    go = asyncio.Event()
    backend.script(go, stream(*talk("Hello")))
    async with caller.opened() as opened:
        assert opened.answer.status_code == 200
        assert opened.answer.headers["x-request-id"]
        events = [await opened.frame() for _ in range(3)]
        go.set()
        events += await opened.rest()
    assert events.pop() == DONE
    last = strict.stream([one for one in events if one != COMMENT])
    assert last["output"][0]["content"][0]["text"] == "Hello"
    assert last["id"] == events[0]["response"]["id"]


LATE = {
    "a bad request": (
        json_reply({"error": {"message": "no such thing", "code": 400}}, status=400),
        "invalid_prompt",
        "no such thing",
    ),
    "too fast": (json_reply({"error": {"message": "slow down"}}, status=429), "rate_limit_exceeded", "slow down"),
    "broken": (json_reply({"error": {"message": "oh"}}, status=500), "server_error", "oh"),
    "too long": (
        json_reply({"error": {"message": "maximum context length is 1"}}, status=400),
        "context_length_exceeded",
        "maximum context length is 1",
    ),
    "an error in a stream": (stream({"error": {"message": "bad", "code": 400}}), "invalid_prompt", "bad"),
}


@pytest.mark.parametrize("name", LATE)
async def test_a_refusal_after_an_early_start_becomes_response_failed(calling, backend, name):
    sent, code, message = LATE[name]
    caller = await calling(EARLY)
    go = asyncio.Event()
    backend.script(go, sent)
    async with caller.opened() as opened:
        events = [await opened.frame(), await opened.frame()]
        go.set()
        events += await opened.rest()
    assert events.pop() == DONE
    last = strict.stream([one for one in events if one != COMMENT])
    assert last["error"] == {"code": code, "message": message}
    assert last["output"] == []
    assert await caller.get(f"/responses/{last['id']}") == last


async def test_without_an_early_start_a_late_refusal_keeps_its_status(calling, backend):
    caller = await calling("--early-stream-after-seconds=0")
    go = asyncio.Event()
    backend.script(go, json_reply({"error": {"message": "no"}}, status=400))
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(caller.ask(stream=True))
        await backend.received(1)
        go.set()
    assert refusal(asked.result()) == (400, None, None)


async def test_an_unknown_past_is_an_http_error_however_early_streams_begin(calling):
    caller = await calling("--early-stream-after-seconds=0.001")
    answer = await caller.ask(stream=True, previous_response_id="resp_" + "0" * 48)
    assert refusal(answer) == (400, "previous_response_not_found", "previous_response_id")


async def test_a_plain_answer_to_a_stream_is_streamed_all_the_same(caller, backend):
    backend.script(json_reply(completion("Hello")))
    assert strict.stream(await caller.events())["output"][0]["content"][0]["text"] == "Hello"


async def test_a_stream_has_the_headers_that_keep_proxies_from_holding_it(caller, backend):
    backend.script(stream(*talk("Hello")))
    async with caller.opened() as opened:
        headers = opened.answer.headers
        await opened.rest()
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert "content-length" not in headers


async def test_the_request_id_is_the_callers_where_it_is_a_sane_one(caller, backend):
    for given, kept in (("trace-1", True), ("", False), ("a b", False), ("x" * 129, False)):
        answer = await caller.http.get("/responses", headers={"x-request-id": given})
        assert (answer.headers["x-request-id"] == given) is kept
        assert answer.headers["x-request-id"]
    assert len(answer.headers.get_list("x-request-id")) == 1


async def test_each_upstream_call_has_a_request_id_of_its_own(caller, backend):
    for _ in range(2):
        await caller.http.post("/responses", json={"model": "m", "input": "x"}, headers={"x-request-id": "mine"})
    sent = [request.values("x-request-id") for request in backend.requests]
    assert all(len(values) == 1 for values in sent)
    assert len({*sent[0], *sent[1], "mine"}) == 3


async def test_an_answer_that_is_passed_on_has_no_request_id_of_ours(caller, backend):
    backend.script(json_reply({"object": "list"}), json_reply({}, status=404))
    assert "x-request-id" not in (await caller.http.get("/models")).headers
    backend.script(json_reply({"object": "list"}, headers=("x-request-id: theirs",)))
    assert (await caller.http.get("/models")).headers.get_list("x-request-id") == ["theirs"]


async def test_no_answer_shows_a_header_of_the_upstreams_own(caller, backend):
    hidden = ("set-cookie: a=b", "server: secret", "content-encoding: identity")
    backend.script(json_reply(completion(), headers=hidden))
    answer = await caller.ask()
    assert answer.headers.keys() == {"content-type", "content-length", "x-request-id"}
    assert json.loads(answer.content)["status"] == "completed"
