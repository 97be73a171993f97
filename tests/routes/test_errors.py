"""Every refusal over HTTP: status, code and param (wire §2.3–2.5)."""

import asyncio
import json
import socket

import pytest

from tests.backend import CLOSE, DONE, STREAM_HEAD, chunk, chunked, completion, json_reply, reply, sse, stream, talk
from tests.callers import Caller, error_of, refusal, unframed
from tests.live import strict

UNKNOWN = "0" * 48

BODIES = {
    "no JSON": (b"{", None, None),
    "empty": (b"", None, None),
    "not UTF-8": (b'{"model":"\xff"}', None, None),
    "a constant JSON does not know": (b'{"model":"m","input":"x","temperature":NaN}', None, None),
    "a list": (b"[]", "invalid_type", None),
    "no model": (b'{"input":"x"}', "missing_required_parameter", "model"),
    "a null model": (b'{"model":null,"input":"x"}', "missing_required_parameter", "model"),
    "no input": (b'{"model":"m"}', "missing_required_parameter", "input"),
    "a number for a model": (b'{"model":1,"input":"x"}', "invalid_type", "model"),
    "a string for stream": (b'{"model":"m","input":"x","stream":"yes"}', "invalid_type", "stream"),
    "a number for input": (b'{"model":"m","input":1}', "invalid_type", "input"),
    "a number in input": (b'{"model":"m","input":[1]}', "invalid_type", "input[0]"),
    "a number for a conversation": (b'{"model":"m","input":"x","conversation":1}', "invalid_type", "conversation"),
    "too hot": (b'{"model":"m","input":"x","temperature":3}', "decimal_above_max_value", "temperature"),
    "too many logprobs": (b'{"model":"m","input":"x","top_logprobs":21}', "integer_above_max_value", "top_logprobs"),
    "no tokens": (b'{"model":"m","input":"x","max_output_tokens":0}', "integer_below_min_value", "max_output_tokens"),
    "true for a number": (
        b'{"model":"m","input":"x","max_output_tokens":true}',
        "invalid_type",
        "max_output_tokens",
    ),
    "an unknown truncation": (b'{"model":"m","input":"x","truncation":"some"}', "invalid_value", "truncation"),
    "metadata that is a text": (b'{"model":"m","input":"x","metadata":"a"}', "invalid_type", "metadata"),
    "a number in metadata": (b'{"model":"m","input":"x","metadata":{"k":1}}', "invalid_type", "metadata.k"),
    "a long metadata value": (
        json.dumps({"model": "m", "input": "x", "metadata": {"k": "v" * 513}}).encode(),
        "string_above_max_length",
        "metadata.k",
    ),
    "17 metadata pairs": (
        json.dumps({"model": "m", "input": "x", "metadata": {str(n): "" for n in range(17)}}).encode(),
        "object_above_max_properties",
        "metadata",
    ),
    "two pasts": (
        b'{"model":"m","input":"x","previous_response_id":"resp_a","conversation":"conv_a"}',
        "mutually_exclusive_parameters",
        "previous_response_id",
    ),
    "background without store": (
        b'{"model":"m","input":"x","background":true,"store":false}',
        "unsupported_parameter",
        "background",
    ),
    "a prompt template": (b'{"model":"m","prompt":{"id":"pmpt_1"}}', "unsupported_parameter", "prompt"),
    "a tool that cannot run here": (
        b'{"model":"m","input":"x","tools":[{"type":"file_search","vector_store_ids":["v"]}]}',
        "unsupported_parameter",
        "tools[0].type",
    ),
    "an output without its call": (
        b'{"model":"m","input":[{"type":"function_call_output","call_id":"c","output":"x"}]}',
        None,
        "input",
    ),
    "an unknown previous response": (
        json.dumps({"model": "m", "input": "x", "previous_response_id": f"resp_{UNKNOWN}"}).encode(),
        "previous_response_not_found",
        "previous_response_id",
    ),
    "an empty previous response id": (
        b'{"model":"m","input":"x","previous_response_id":""}',
        "previous_response_not_found",
        "previous_response_id",
    ),
    "an empty conversation id": (b'{"model":"m","input":"x","conversation":""}', "empty_string", "conversation"),
    "an object without an id": (
        b'{"model":"m","input":"x","conversation":{}}',
        "missing_required_parameter",
        "conversation.id",
    ),
    "endless nesting": (b'{"model":"m","input":"x","tools":' + b"[" * 5000 + b"]" * 5000 + b"}", None, None),
    "a previous response id that cannot be one": (
        b'{"model":"m","input":"x","previous_response_id":"nonsense"}',
        "previous_response_not_found",
        "previous_response_id",
    ),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_a_bad_request_to_create_is_a_400_that_says_what_is_wrong(caller, backend, name, streamed):
    body, code, param = BODIES[name]
    if streamed and b'"stream"' not in body and body.endswith(b"}"):
        body = body[:-1] + b',"stream":true}'
    answer = await caller.http.post("/responses", content=body)
    assert refusal(answer) == (400, code, param)
    assert error_of(answer)["type"] == "invalid_request_error"
    assert backend.requests == []


NOT_FOUND = [
    ("POST", "/responses", {"model": "m", "input": "x", "conversation": f"conv_{UNKNOWN}"}, "conversation"),
    ("POST", "/responses", {"model": "m", "input": "x", "conversation": {"id": "conv_nonsense"}}, "conversation"),
    ("POST", "/responses", {"model": "m", "input": [{"type": "item_reference", "id": f"msg_{UNKNOWN}"}]}, "input"),
    ("POST", "/responses", {"model": "m", "input": [{"id": "mine"}]}, "input"),
    ("GET", f"/responses/resp_{UNKNOWN}", None, None),
    ("GET", f"/responses/resp_{UNKNOWN}?stream=true", None, None),
    ("GET", "/responses/nonsense", None, None),
    ("GET", f"/responses/conv_{UNKNOWN}", None, None),
    ("GET", f"/responses/resp_{'x' * 200}", None, None),
    ("GET", f"/responses/resp_{UNKNOWN}/input_items", None, None),
    ("DELETE", f"/responses/resp_{UNKNOWN}", None, None),
    ("POST", f"/responses/resp_{UNKNOWN}/cancel", None, None),
    ("GET", f"/conversations/conv_{UNKNOWN}", None, None),
    ("GET", "/conversations/nonsense", None, None),
    ("POST", f"/conversations/conv_{UNKNOWN}", {"metadata": {}}, None),
    ("DELETE", f"/conversations/conv_{UNKNOWN}", None, None),
    ("GET", f"/conversations/conv_{UNKNOWN}/items", None, None),
    ("POST", f"/conversations/conv_{UNKNOWN}/items", {"items": [{"role": "user", "content": "x"}]}, None),
    ("GET", f"/conversations/conv_{UNKNOWN}/items/msg_{UNKNOWN}", None, None),
    ("DELETE", f"/conversations/conv_{UNKNOWN}/items/msg_{UNKNOWN}", None, None),
]


@pytest.mark.parametrize(("method", "path", "body", "param"), NOT_FOUND)
async def test_what_is_not_there_is_a_404(caller, backend, method, path, body, param):
    answer = await caller.http.request(method, path, json=body)
    assert refusal(answer) == (404, None, param)
    assert error_of(answer)["type"] == "invalid_request_error"
    assert backend.requests == []


async def test_an_unknown_item_of_a_known_conversation_is_a_404_that_names_both(caller):
    conversation = await caller.conversation()
    for method in ("GET", "DELETE"):
        answer = await caller.http.request(method, f"/conversations/{conversation}/items/msg_x")
        assert refusal(answer) == (404, None, None)
        assert error_of(answer)["message"] == f"Item with id 'msg_x' not found in conversation '{conversation}'."


CONVERSATION_BODIES = {
    "items that are a text": ("", {"items": "x"}, "invalid_type", "items"),
    "21 items": ("", {"items": [{"role": "user", "content": "x"}] * 21}, "array_above_max_length", "items"),
    "a list": ("", [], "invalid_type", None),
    "a number in metadata": ("", {"metadata": {"k": 1}}, "invalid_type", "metadata.k"),
    "an update of nothing": ("/{id}", {}, "missing_required_parameter", "metadata"),
    "no items": ("/{id}/items", {}, "missing_required_parameter", "items"),
    "an empty list": ("/{id}/items", {"items": []}, "empty_array", "items"),
    "too many": ("/{id}/items", {"items": [{"role": "user", "content": "x"}] * 21}, "array_above_max_length", "items"),
    "one that is bad": ("/{id}/items", {"items": [{"role": "user", "content": "x"}, 1]}, "invalid_type", "items[1]"),
}


@pytest.mark.parametrize("name", CONVERSATION_BODIES)
async def test_a_bad_request_to_a_conversation_is_a_400_and_changes_nothing(caller, name):
    path, body, code, param = CONVERSATION_BODIES[name]
    conversation = await caller.conversation(metadata={"k": "v"})
    answer = await caller.http.post("/conversations" + path.format(id=conversation), json=body)
    assert refusal(answer) == (400, code, param)
    assert await caller.texts(conversation) == []
    assert (await caller.get(f"/conversations/{conversation}"))["metadata"] == {"k": "v"}


async def test_a_reference_is_no_item_of_a_conversation(caller):
    conversation = await caller.conversation()
    body = {"items": [{"type": "item_reference", "id": "msg_x"}]}
    answer = await caller.http.post(f"/conversations/{conversation}/items", json=body)
    assert answer.status_code == 400
    assert error_of(answer)["param"].startswith("items[0]")


QUERIES = [
    ({"limit": 0}, "integer_below_min_value", "limit"),
    ({"limit": 101}, "integer_above_max_value", "limit"),
    ({"limit": "many"}, "invalid_type", "limit"),
    ({"order": "up"}, "invalid_value", "order"),
    ({"after": "msg_nonsense"}, None, "after"),
    ({"before": "msg_nonsense"}, None, "before"),
    ({"after": "a", "before": "b"}, "mutually_exclusive_parameters", "after"),
]


@pytest.mark.parametrize(("query", "code", "param"), QUERIES)
async def test_a_bad_page_is_a_400_on_every_list(caller, query, code, param):
    conversation = await caller.conversation(items=[{"role": "user", "content": "x"}])
    made = await caller.create()
    for path in (f"/conversations/{conversation}/items", f"/responses/{made['id']}/input_items", "/responses"):
        assert refusal(await caller.http.get(path, params=query)) == (400, code, param)


async def test_a_response_of_another_kind_cannot_be_cancelled_or_streamed_again(caller):
    made = await caller.create()
    cancelled = await caller.http.post(f"/responses/{made['id']}/cancel")
    assert refusal(cancelled) == (400, None, None)
    assert error_of(cancelled)["message"] == "Cannot cancel a synchronous response."
    streamed = await caller.http.get(f"/responses/{made['id']}", params={"stream": "true"})
    assert refusal(streamed) == (400, None, "stream")


async def test_a_lone_surrogate_is_text_like_any_other(caller, backend):
    backend.script(json_reply(completion("half \ud83d too")))
    answer = await caller.http.post("/responses", content=rb'{"model":"m","input":"half \ud83d of it"}')
    assert answer.status_code == 200
    assert backend.requests[0].json["messages"] == [{"role": "user", "content": "half \ud83d of it"}]
    made = json.loads(answer.content)
    assert made["output"][0]["content"][0]["text"] == "half \ud83d too"
    assert json.loads((await caller.http.get(f"/responses/{made['id']}")).content) == made


async def test_a_body_above_the_limit_is_a_413_whether_or_not_it_says_its_length(calling, backend):
    caller = await calling("--body-limit=1000")

    async def parts():
        for _ in range(2):
            yield b" " * 600

    for path in ("/responses", "/conversations"):
        for content in (b" " * 1200, parts()):
            answer = await caller.http.post(path, content=content)
            assert answer.status_code == 413
            assert error_of(answer)["type"] == "invalid_request_error"
    assert (await caller.ask("x" * 500)).status_code == 200


# -- the upstream's own


def shaped(message, status, **rest):
    return json_reply({"error": {"message": message, "type": "invalid_request_error", **rest}}, status=status)


REFUSALS = {
    "vLLM's 400": (shaped("bad", 400, type="BadRequestError", code=400), 400, "invalid_request_error", None, "bad"),
    "a string code": (shaped("bad", 400, code="bad_thing"), 400, "invalid_request_error", "bad_thing", "bad"),
    "an overflow": (
        shaped("This model's maximum context length is 10 tokens.", 400),
        400,
        "invalid_request_error",
        "context_length_exceeded",
        "This model's maximum context length is 10 tokens.",
    ),
    "a wrong key": (shaped("who?", 401, type="auth_error"), 401, "auth_error", None, "who?"),
    "no such model": (shaped("no m", 404, type="NotFoundError", code=404), 404, "invalid_request_error", None, "no m"),
    "FastAPI's list": (
        json_reply({"detail": [{"loc": ["body", "n"], "msg": "wrong"}]}, status=422),
        422,
        "invalid_request_error",
        None,
        "body.n: wrong",
    ),
    "an error that is a text": (json_reply({"error": "no"}, status=500), 500, "server_error", None, "no"),
    "a page": (reply(b"<h1>Bad gateway</h1>", status=502), 502, "server_error", None, "<h1>Bad gateway</h1>"),
    "nothing": (
        reply(b"", status=503),
        503,
        "server_error",
        None,
        "The upstream answered 503 without a message.",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_the_upstreams_refusal_keeps_its_status_and_message(caller, backend, name, streamed):
    sent, status, type_, code, message = REFUSALS[name]
    backend.script(sent)
    answer = await caller.ask(stream=streamed)
    assert answer.status_code == status
    assert error_of(answer) == {"message": message, "type": type_, "param": None, "code": code}
    assert (await caller.get("/responses"))["data"] == []


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_a_429_keeps_the_headers_that_tell_when_to_come_back(caller, backend, streamed):
    told = ("retry-after: 7", "retry-after-ms: 7000", "x-ratelimit-remaining-requests: 0", "x-should-retry: true")
    hidden = ("set-cookie: a=b", "x-internal: yes")
    backend.script(json_reply({"error": {"message": "slow down"}}, status=429, headers=(*told, *hidden)))
    answer = await caller.ask(stream=streamed)
    assert refusal(answer) == (429, None, None)
    assert error_of(answer)["type"] == "rate_limit_error"
    assert [f"{name}: {answer.headers[name]}" for name in (line.partition(":")[0] for line in told)] == list(told)
    assert not {"set-cookie", "x-internal"} & answer.headers.keys()


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_an_upstream_that_cannot_be_reached_is_a_502(calling, streamed):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, never listening
        caller = await calling(upstream=f"http://127.0.0.1:{closed.getsockname()[1]}/v1")
        answer = await caller.ask(stream=streamed)
    assert refusal(answer) == (502, "upstream_unreachable", None)
    assert error_of(answer)["type"] == "server_error"


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_an_upstream_that_never_answers_is_a_504(calling, backend, streamed):
    caller = await calling("--upstream-first-byte-timeout=0.1")
    backend.script(asyncio.Event())
    assert refusal(await caller.ask(stream=streamed)) == (504, "upstream_timeout", None)
    async with asyncio.timeout(20):
        await (await backend.received(1)).gone.wait()


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize(
    ("payload", "status", "code"),
    [
        ({"error": {"message": "too long", "type": "BadRequestError", "code": 400}}, 400, None),
        ({"error": {"message": "maximum context length", "code": 400}}, 400, "context_length_exceeded"),
        ({"object": "error", "message": "no", "code": 404}, 404, None),
        ({"error": "out of memory"}, 502, None),
    ],
)
async def test_an_error_as_the_first_payload_of_a_stream_is_an_http_error(
    caller, backend, payload, status, code, streamed
):
    backend.script(stream(payload, DONE))
    assert refusal(await caller.ask(stream=streamed)) == (status, code, None)
    assert (await caller.get("/responses"))["data"] == []


async def test_silence_in_mid_stream_ends_as_failed(calling, backend):
    caller = await calling("--upstream-idle-timeout=0.1")
    backend.script(STREAM_HEAD + chunked(sse(chunk({"content": "Hel"}))), asyncio.Event())
    last = strict.stream(await caller.events())
    assert (last["status"], last["error"]["code"]) == ("failed", "server_error")


LATE = {
    "hung up": (CLOSE, "server_error"),
    "an error": (chunked(sse({"error": {"message": "out of memory", "code": 500}})), "server_error"),
    "an overflow": (
        chunked(sse({"error": {"message": "maximum context length", "code": 400}})),
        "context_length_exceeded",
    ),
    "no retry helps": (chunked(sse({"error": {"message": "bad", "code": 400}})), "invalid_prompt"),
    "nonsense": (chunked(b"data: nonsense\n\n"), "server_error"),
    "an end without a finish": (b"0\r\n\r\n", "server_error"),
}


@pytest.mark.parametrize("name", LATE)
async def test_a_late_failure_ends_the_stream_and_keeps_what_was_written(caller, backend, name):
    step, code = LATE[name]
    backend.script(STREAM_HEAD + chunked(sse(*talk("Hel", "lo")[:3])), step)
    events = await caller.events()
    last = strict.stream(events)
    assert events[-1]["type"] == "response.failed"
    assert last["error"]["code"] == code
    assert [part["text"] for part in last["output"][0]["content"]] == ["Hello"]
    assert last["output"][0]["status"] == "incomplete"
    assert not [one for one in events if one["type"] == "error"]
    assert await caller.get(f"/responses/{last['id']}") == last
    assert strict.response(await caller.get(f"/responses/{last['id']}"))


async def test_what_a_failed_response_wrote_is_part_of_what_follows_it(caller, backend):
    backend.script(STREAM_HEAD + chunked(sse(*talk("Hel", "lo")[:3])), CLOSE)
    failed = strict.stream(await caller.events("One"))
    await caller.create("Two", previous_response_id=failed["id"])
    assert [message["content"] for message in backend.requests[1].json["messages"]] == ["One", "Hello", "Two"]


async def test_a_failed_turn_leaves_its_conversation_as_it_was(caller, backend):
    conversation = await caller.conversation()
    backend.script(STREAM_HEAD + chunked(sse(*talk("Hel", "lo")[:3])), CLOSE)
    strict.stream(await caller.events("One", conversation=conversation))
    assert await caller.texts(conversation) == []
    await caller.create("Two", conversation=conversation)
    assert await caller.texts(conversation) == ["Two", "Hi"]


async def test_an_error_event_comes_before_the_failure_only_where_it_is_wanted(calling, backend):
    caller = await calling("--late-errors=both")
    backend.script(STREAM_HEAD + chunked(sse(*talk("Hel", "lo")[:3])), CLOSE)
    events = await caller.events()
    strict.stream(events)
    assert [one["type"] for one in events[-2:]] == ["error", "response.failed"]
    assert events[-2].keys() == {"type", "sequence_number", "code", "message", "param"}
    assert events[-2]["message"] == events[-1]["response"]["error"]["message"]


async def test_a_stream_that_finished_needs_no_done(caller, backend):
    backend.script(stream(*talk("Hello")[:-1]))
    assert strict.stream(await caller.events())["status"] == "completed"


async def test_usage_that_never_comes_holds_nobody_up(caller, backend, monkeypatch):
    monkeypatch.setattr("proxy.turn.round.USAGE_WAIT", 0.1)
    backend.script(STREAM_HEAD + chunked(sse(*talk("Hello")[:-1])), asyncio.Event())
    last = strict.stream(await caller.events())
    assert last["status"] == "completed"
    assert last["usage"]["total_tokens"] == 0
    async with asyncio.timeout(20):
        await backend.requests[0].gone.wait()


async def test_a_caller_that_does_not_stream_gets_the_partial_output_of_a_failure(caller, backend):
    backend.script(STREAM_HEAD + chunked(sse(*talk("Hel", "lo")[:3])), CLOSE)
    made = strict.response(await caller.create())
    assert (made["status"], made["error"]["code"]) == ("failed", "server_error")
    assert made["output"][0]["content"][0]["text"] == "Hello"
    assert await caller.get(f"/responses/{made['id']}") == made


async def test_the_alias_prefix_refuses_alike(url):
    async with Caller(url, prefix="/v1/openai/v1") as caller:
        assert refusal(await caller.ask(stream="yes")) == (400, "invalid_type", "stream")
        answer = await caller.ask(stream=True)
        strict.stream(unframed(answer.content, done=False))
