"""An upstream's stream that is cut at any byte ends in exactly one valid terminal event, or was refused in time."""

import asyncio

import pytest

from tests.backend import CLOSE, STREAM_END, STREAM_HEAD, chunk, chunked, reply, sse
from tests.callers import error_of, frames
from tests.live import strict

RECORDED = (
    'data: {"id":"c","model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
    'data: {"choices":[{"index":0,"delta":{"reasoning_content":"Hm"}}]}\n\n'
    'data: {"choices":[{"index":0,"delta":{"content":"Wörter 🎈"}}]}\n\n'
    'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_1","type":"function",'
    '"function":{"name":"f","arguments":""}}]}}]}\n\n'
    'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\\"a\\":1}"}}]}}]}\n\n'
    'data: {"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}\n\n'
    'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}\n\n'
    "data: [DONE]\n\n"
).encode()
BEGINS = RECORDED.index(b"\n\n") + 2
"""Where the first payload has come."""
FINISHED = RECORDED.index(b'"tool_calls"}]}\n\n') + len(b'"tool_calls"}]}\n\n')
"""Where the finish reason has come."""

HOW = {
    "broken off": lambda cut: (STREAM_HEAD + chunked(cut), CLOSE),
    "ended": lambda cut: (STREAM_HEAD + chunked(cut) + STREAM_END,),
    "without a length": lambda cut: (reply(cut, headers=("content-type: text/event-stream",), length=False), CLOSE),
}


@pytest.mark.parametrize("how", HOW)
async def test_a_stream_cut_at_any_byte_ends_in_one_valid_terminal_event(caller, backend, how):
    """At every byte, without a server: tests/replay."""
    places = range(1, len(RECORDED), 3 if how == "broken off" else 7)
    outcomes = []
    for at in places:
        backend.script(*HOW[how](RECORDED[:at]))
        answer = await caller.ask("cut", stream=True, store=at % 20 == 0)
        if answer.status_code != 200:
            assert error_of(answer)["type"] == "server_error"
            outcomes.append("refused")
            continue
        events = frames(answer.content)
        assert events.pop() == "[DONE]"
        last = strict.grammar(events)
        outcomes.append(last["status"])
        if last["store"]:
            assert await caller.get(f"/responses/{last['id']}") == last
    changes = {what: places[outcomes.index(what)] for what in outcomes}
    assert sorted(changes, key=changes.get) == ["refused", "failed", "completed"]
    assert BEGINS - 2 <= changes["failed"] <= BEGINS + 7  # a line's end may already tell that a payload is whole
    assert FINISHED - 2 <= changes["completed"] <= FINISHED + 7
    assert outcomes == sorted(outcomes, key=list(changes).index)


async def test_a_stream_that_never_ends_fails_at_its_bound_with_what_was_told(caller, backend, monkeypatch):
    monkeypatch.setattr("proxy.upstream.reply.STREAM_LIMIT", 3000)
    more = [chunked(sse(chunk({"content": f"{number:04}"}))) for number in range(100)]
    backend.script(STREAM_HEAD + more[0], go := asyncio.Event(), b"".join(more[1:]), asyncio.Event())
    async with caller.opened("cut") as answer:
        told = await answer.until("response.output_text.delta")
        go.set()
        last = (await answer.rest())[-2]["response"]
    assert (told["delta"], last["status"], last["error"]["code"]) == ("0000", "failed", "server_error")
    assert last["error"]["message"] == "The upstream's answer exceeds 3000 bytes."
    assert last["output"][0]["content"][0]["text"].startswith("0000")
    assert await caller.get(f"/responses/{last['id']}") == last
    await backend.requests[0].gone.wait()


async def test_any_split_of_the_same_bytes_gives_the_same_events(caller, backend):
    def shape(events):
        return [(one["type"], one.get("delta")) for one in events]

    backend.script(STREAM_HEAD + chunked(RECORDED) + STREAM_END)
    whole = await caller.events(store=False)
    strict.stream(whole)
    for at in range(1, len(RECORDED), 11):
        backend.script(STREAM_HEAD + chunked(RECORDED[:at]), go := asyncio.Event(), chunked(RECORDED[at:]) + STREAM_END)
        go.set()
        assert shape(await caller.events(store=False)) == shape(whole)
