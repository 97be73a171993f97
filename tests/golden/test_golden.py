"""Golden streams through the whole proxy: a real backend's bytes in, a real store behind, every frame compared.

The streams beside this file were checked against OpenAI's description, the Open Responses schema and the official SDKs.
"""

import asyncio
import json
import re
from pathlib import Path

import pytest

from tests.backend import DONE, STREAM_END, STREAM_HEAD, chunked, json_reply, sse, stream
from tests.callers import COMMENT, unframed
from tests.golden.scripts import SCRIPTS, folded

FOLDER = Path(__file__).parent
PLAIN = sorted(SCRIPTS.keys() - {"slow_start"})
ANSWERED = sorted(SCRIPTS.keys() - {"slow_start", "failed_midstream"})


def golden(name):
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text("utf-8").splitlines()]


def renamed(events):
    """The events with their ids numbered in the order in which they appear, and times as words.

    Numbers, booleans and nulls become what they look like: 1 is not 1.0, and True is not 1.
    """
    ids = {}

    def walk(value, key=""):
        if isinstance(value, dict):
            return {name: walk(inner, name) for name, inner in value.items()}
        if isinstance(value, list):
            return [walk(inner) for inner in value]
        if isinstance(value, str) and (
            found := re.fullmatch(r"(resp|msg|rs|fc|ctc|call|mcpl|mcp|mcpr|mcpa|ws)_[0-9A-Za-z]+", value)
        ):
            return ids.setdefault(value, f"{found[1]}_{len(ids)}")
        if key in ("created_at", "completed_at") and type(value) is int:
            return key
        return value if isinstance(value, str) else repr(value)

    return [walk(event) for event in events]


def request(name):
    return {"model": "mock-model", "input": "Go on", **SCRIPTS[name].request}


async def streamed(caller, backend, name):
    backend.script(stream(*SCRIPTS[name].chunks))
    answer = await caller.http.post("/responses", json={**request(name), "stream": True})
    assert answer.status_code == 200, answer.text
    return unframed(answer.content)


@pytest.mark.parametrize("name", PLAIN)
async def test_the_stream_is_the_golden_one(name, caller, backend):
    events = await streamed(caller, backend, name)
    assert renamed(events) == renamed(golden(name))
    assert {tuple(event)[:2] for event in events} == {("type", "sequence_number")}
    first, *_, last = (event["response"] for event in events if "response" in event)
    assert first["id"] == last["id"]
    if last["completed_at"]:
        assert first["created_at"] <= last["completed_at"]


@pytest.mark.parametrize("name", PLAIN)
async def test_what_is_stored_is_what_was_sent(name, caller, backend):
    last = (await streamed(caller, backend, name))[-1]["response"]
    assert await caller.get(f"/responses/{last['id']}") == last


@pytest.mark.parametrize("name", PLAIN)
async def test_the_json_answer_is_the_last_event_of_the_stream(name, caller, backend):
    backend.script(stream(*SCRIPTS[name].chunks))
    answer = await caller.http.post("/responses", json=request(name))
    assert answer.status_code == 200
    response = answer.json()
    assert renamed([response]) == renamed([golden(name)[-1]["response"]])
    assert await caller.get(f"/responses/{response['id']}") == response


@pytest.mark.parametrize("name", ANSWERED)
async def test_a_plain_reply_of_the_backend_gives_the_same_response(name, calling, backend):
    caller = await calling("--upstream-stream=never")
    backend.script(json_reply(folded(SCRIPTS[name].chunks)))
    answer = await caller.http.post("/responses", json=request(name))
    assert answer.status_code == 200
    assert (await backend.received(1)).json["stream"] is False
    assert renamed([answer.json()]) == renamed([golden(name)[-1]["response"]])


@pytest.mark.parametrize(
    "name", ["text", "interleaved_function_calls", "custom_tool_call", "reasoning_summary", "failed_midstream"]
)
async def test_the_stream_is_the_same_byte_by_byte(name, caller, backend):
    """However the network cuts the backend's bytes."""
    body = b"".join(map(sse, SCRIPTS[name].chunks))
    pieces = [chunked(body[at : at + 7]) for at in range(0, len(body), 7)]
    backend.script(STREAM_HEAD, *pieces, STREAM_END)
    events = await caller.events("Go on", **request(name))
    assert renamed(events) == renamed(golden(name))


async def test_silence_before_the_first_item_is_filled(calling, backend):
    """Wire §9.9: the backend waits until its client has seen two keepalives."""
    caller = await calling("--early-stream-after-seconds=0.02", "--sse-keepalive-seconds=0.02")
    heard = asyncio.Event()
    backend.script(heard, stream(*SCRIPTS["slow_start"].chunks))
    async with caller.opened("Go on", **request("slow_start")) as opened:
        events = [await opened.frame() for _ in range(4)]
        heard.set()
        *rest, done = [frame for frame in await opened.rest() if frame != COMMENT]
    assert done == DONE
    more = [event for event in rest if event["type"] == "response.in_progress"]  # a slow machine gets more of them
    assert [event["sequence_number"] for event in events + rest] == list(range(len(events + rest)))
    told = [{**event, "sequence_number": at} for at, event in enumerate(e for e in events + rest if e not in more)]
    assert renamed(told) == renamed(golden("slow_start"))


@pytest.mark.parametrize("name", ANSWERED)
async def test_each_golden_request_reaches_the_backend_as_chat(name, caller, backend):
    await streamed(caller, backend, name)
    received = await backend.received(1)
    assert (received.method, received.target) == ("POST", "/v1/chat/completions")  # never a /responses of its own
    body = received.json
    assert body["messages"] == [{"role": "user", "content": "Go on"}]
    assert (body["model"], body["stream"], body["stream_options"]) == ("mock-model", True, {"include_usage": True})
    sent = SCRIPTS[name].request
    assert ("tools" in body, body.get("max_tokens")) == ("tools" in sent, sent.get("max_output_tokens"))
    assert body.get("top_logprobs") == sent.get("top_logprobs")
    assert body.get("reasoning_effort") == sent.get("reasoning", {}).get("effort")


def test_every_golden_stream_has_a_script():
    made_as_runs = {"background", "cancelled"}  # tests/routes/test_background.py
    made_in_rounds = {"mcp", "mcp_approval", "mcp_approved", "web_search"}  # test_hosted.py, tests/routes
    assert {path.stem for path in FOLDER.glob("*.jsonl")} == SCRIPTS.keys() | made_as_runs | made_in_rounds
