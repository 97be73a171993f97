"""What becomes of a request's tools is told, and planned anew when the upstream wants them otherwise (wire §6.6)."""

import asyncio

import pytest

from tests.backend import STREAM_HEAD, chunk, chunked, completion, json_reply, sse, stream, talk
from tests.callers import ok, refusal
from tests.live import strict

HEADER = "statecar-dropped-tools"
F = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}
DROPPED = [{"type": "web_search"}, F, {"type": "image_generation"}, {"type": "web_search"}]


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_the_types_left_out_are_told_in_order_once_each(caller, backend, streamed):
    backend.script(stream(*talk("Hi")) if streamed else json_reply(completion()))
    answer = await caller.ask("Hi", tools=DROPPED, stream=streamed)
    assert answer.status_code == 200
    assert answer.headers[HEADER] == "web_search, image_generation"
    assert [tool["function"]["name"] for tool in backend.requests[0].json["tools"]] == ["f"]


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_where_none_is_left_out_there_is_no_such_header(caller, backend, streamed):
    backend.script(stream(*talk("Hi")) if streamed else json_reply(completion()))
    answer = await caller.ask("Hi", tools=[F], stream=streamed)
    assert answer.status_code == 200
    assert HEADER not in answer.headers


@pytest.mark.parametrize("type_", ["web_search_東京", "web_search\r\nx-forged: 1"])
@pytest.mark.parametrize("inside", [False, True], ids=["tools", "additional_tools"])
async def test_a_type_that_no_header_can_carry_is_refused_before_the_model_works(calling, backend, type_, inside):
    caller = await calling("--unsupported-tools=drop")
    given = [{"type": type_}]
    if inside:
        answer = await caller.ask([{"type": "additional_tools", "tools": given}, {"role": "user", "content": "Hi"}])
    else:
        answer = await caller.ask("Hi", tools=given)
    assert refusal(answer) == (400, "invalid_value", f"{'input[0].' if inside else ''}tools[0].type")
    assert not backend.requests


async def test_they_are_told_before_the_upstream_has_answered(calling, backend):
    caller = await calling("--early-stream-after-seconds=0.05")
    go_on = asyncio.Event()
    backend.script(go_on, STREAM_HEAD + chunked(sse(*talk("Hi"))))
    async with caller.opened("Hi", tools=DROPPED) as opened:
        assert opened.answer.headers[HEADER] == "web_search, image_generation"
        go_on.set()
        await opened.until("response.completed")


async def test_the_upstreams_own_headers_stand_beside_it(caller, backend):
    backend.script(json_reply(completion(), headers=("x-ratelimit-remaining-requests: 5",)))
    answer = await caller.ask("Hi", tools=DROPPED)
    assert ok(answer)
    assert (answer.headers[HEADER], answer.headers["x-ratelimit-remaining-requests"]) == (
        "web_search, image_generation",
        "5",
    )


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_a_refused_custom_tool_is_offered_anew_as_a_function_and_its_call_read_so(calling, backend, streamed):
    caller = await calling("--upstream-kind=openai")
    told = "Invalid value: 'custom'. Supported values are: 'function'."
    backend.script(
        json_reply({"error": {"message": told, "param": "tools[0].type", "code": "invalid_value"}}, status=400)
    )
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "x", "arguments": '{"input":"ls"}'}}
    if streamed:
        backend.script(stream(chunk({"tool_calls": [call]}, "tool_calls")))
    else:
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        backend.script(json_reply({**completion(), "choices": [{"message": message, "finish_reason": "tool_calls"}]}))
    fields = {"tools": [{"type": "custom", "name": "x"}]}
    if streamed:
        response = strict.stream(await caller.events("Hi", **fields))
    else:
        response = strict.response(await caller.create("Hi", **fields))
    assert [request.json["tools"][0]["type"] for request in backend.requests] == ["custom", "function"]
    (item,) = response["output"]
    assert (item["type"], item["name"], item["input"]) == ("custom_tool_call", "x", "ls")


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_of_many_types_left_out_the_header_names_the_first_twenty(caller, backend, streamed):
    backend.script(stream(*talk("Hi")) if streamed else json_reply(completion()))
    answer = await caller.ask("Hi", tools=[{"type": f"web_search_{n}"} for n in range(3000)], stream=streamed)
    assert answer.status_code == 200
    assert answer.headers[HEADER] == ", ".join(f"web_search_{n}" for n in range(20))
