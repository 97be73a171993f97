"""Compaction: asked for by itself, by a threshold, by a trigger, and what later turns see of it (wire §3.7, §10.8)."""

import asyncio
import signal

import pytest
from openai.types.responses import ResponseCompactionItem
from openai.types.responses.response_usage import ResponseUsage

from proxy.translate.compaction import question
from tests.backend import DONE, PATIENCE, chunk, completion, json_reply, stream, talk
from tests.callers import Caller, error_of, ok, refusal, unframed
from tests.live import strict

QUESTION = question(users_stay=False)["content"][0]["text"]
KEY = "--seal-key=a key that nobody knows"
TOO_LONG = json_reply({"error": {"message": "This model's maximum context length is 9 tokens."}}, status=400)
TRIGGER = {"type": "compaction_trigger"}
OPEN_CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
LIMIT = {"context_management": [{"type": "compaction", "compact_threshold": 1000}]}


def summary(text="the gist", prompt=2000):
    answer = completion(text)
    return json_reply(
        {**answer, "usage": {"prompt_tokens": prompt, "completion_tokens": 5, "total_tokens": prompt + 5}}
    )


def said(request):
    return [message["content"] for message in request.json["messages"]]


def gist(request):
    """The messages of a request, of the first one only whether it holds the summary."""
    first, *rest = said(request)
    assert first.endswith("the gist"), first
    return rest


async def compacted(caller, **fields):
    return ok(await caller.http.post("/responses/compact", json={"model": "m"} | fields))


def compaction_of(items):
    (item,) = [item for item in items if item["type"] == "compaction"]
    ResponseCompactionItem.model_validate(item, strict=True)
    assert item.keys() == {"id", "type", "encrypted_content"}
    assert item["id"].startswith("cmp_")
    return item


@pytest.fixture(params=[(), (KEY,)], ids=["packed", "sealed"])
async def anyone(calling, request):
    """A caller of a server without a key, and of one with."""
    return await calling(*request.param)


# -- POST /responses/compact


async def test_a_compaction_gives_what_users_said_and_one_item_that_stands_for_the_rest(anyone, backend):
    backend.script(summary())
    tools = [
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "42"},
    ]
    talked = [{"role": "user", "content": "one"}, *tools, {"role": "assistant", "content": "1"}]
    answer = await compacted(anyone, input=[*talked, {"role": "user", "content": "two"}], instructions="brief")

    assert answer.keys() == {"id", "object", "created_at", "output", "usage"}
    assert answer["object"] == "response.compaction" and type(answer["created_at"]) is int
    ResponseUsage.model_validate(answer["usage"], strict=True)
    assert (answer["usage"]["input_tokens"], answer["usage"]["total_tokens"]) == (2000, 2005)
    strict._openapi("CompactResource", answer)
    *users, last = answer["output"]
    assert [(user["role"], user["status"], user["content"]) for user in users] == [
        ("user", "completed", [{"type": "input_text", "text": text}]) for text in ("one", "two")
    ]
    assert all(user["id"].startswith("msg_") for user in users)
    assert compaction_of([last])["encrypted_content"].startswith(("sc0.", "sc1."))

    asked = backend.requests[0].json
    assert asked.keys() <= {"model", "messages", "stream", "stream_options"}  # no tools, no limit, no format
    *before, question = said(backend.requests[0])
    assert before == ["brief", "one", "", "42", "1", "two"]
    assert "summary" in question and "word for word" in question  # it leaves out what is given back anyway

    await anyone.create([*answer["output"], {"role": "user", "content": "three"}])
    assert gist(backend.requests[1]) == ["one", "two", "three"]


async def test_a_call_that_is_still_open_can_be_compacted(caller, backend):
    backend.script(summary())
    await compacted(caller, input=[{"role": "user", "content": "one"}, OPEN_CALL])
    assert said(backend.requests[0])[:3] == ["one", "", ""]


async def test_a_compaction_continues_a_stored_talk_and_stores_nothing(anyone, backend):
    first = await anyone.create("one")
    backend.script(summary())
    answer = await compacted(anyone, previous_response_id=first["id"])
    assert said(backend.requests[1])[:2] == ["one", "Hi"]
    assert [item.get("role") for item in answer["output"]] == ["user", None]
    assert (await anyone.http.get(f"/responses/{answer['id']}")).status_code == 404
    assert refusal(await anyone.ask("x", previous_response_id=answer["id"]))[1] == "previous_response_not_found"
    await anyone.create("two", previous_response_id=first["id"])
    assert said(backend.requests[-1]) == ["one", "Hi", "two"]


REFUSED = {
    "no model": ({"model": None, "input": "x"}, (400, "missing_required_parameter", "model")),
    "no input": ({}, (400, "missing_required_parameter", "input")),
    "an empty input": ({"input": []}, (400, None, "input")),
    "only rules": ({"input": [{"role": "system", "content": "x"}]}, (400, None, "input")),
    "an unknown past": (
        {"previous_response_id": "resp_" + "0" * 48},
        (400, "previous_response_not_found", "previous_response_id"),
    ),
    "an unknown reference": ({"input": [{"type": "item_reference", "id": "msg_" + "0" * 48}]}, (404, None, "input")),
    "a conversation": ({"input": "x", "conversation": "conv_1"}, (400, "unsupported_parameter", "conversation")),
}


@pytest.mark.parametrize("body", REFUSED)
async def test_a_compaction_is_refused_as_a_response_is(caller, backend, body):
    fields, expected = REFUSED[body]
    assert refusal(await caller.http.post("/responses/compact", json={"model": "m"} | fields)) == expected
    assert backend.requests == []


FAILURES = {
    "a refusal": (json_reply({"error": {"message": "no"}}, status=429), 429),
    "an error under 200": (json_reply({"error": {"message": "no", "code": 500}}), 500),
    "an empty summary": (json_reply(completion("  ")), 502),
    "half a summary, cut off": (
        json_reply({"choices": [{"message": {"content": "x"}, "finish_reason": "length"}]}),
        502,
    ),
    "a stream cut off": (stream(chunk({"content": "x"})), 502),
}


@pytest.mark.parametrize("what", FAILURES)
async def test_a_summary_that_fails_is_an_error(caller, backend, what):
    script, status = FAILURES[what]
    backend.script(script)
    answer = await caller.http.post("/responses/compact", json={"model": "m", "input": "x"})
    assert answer.status_code == status and error_of(answer)


async def test_a_talk_too_long_for_its_summary_is_summed_up_by_its_newer_part(caller, backend):
    backend.script(TOO_LONG)
    backend.script(summary())
    talked = [{"role": role, "content": f"{role} {n}"} for n in range(4) for role in ("user", "assistant")]
    answer = await compacted(caller, input=talked)
    assert said(backend.requests[0])[0] == "user 0"
    assert said(backend.requests[1])[0] == "user 1"
    assert len(answer["output"]) == 5


# -- a threshold


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("stored", [False, True], ids=["stateless", "stored"])
async def test_a_context_above_the_threshold_is_compacted_before_the_answer(anyone, backend, stored, streamed):
    backend.script(json_reply({**completion("1"), "usage": {"prompt_tokens": 990, "completion_tokens": 11}}))
    first = await anyone.create("one")
    backend.script(summary())
    backend.script(stream(*talk("2")) if streamed else json_reply(completion("2")))
    fields = {"previous_response_id": first["id"], "store": stored, **LIMIT}
    if streamed:
        events = await anyone.events("two", **fields)
        response = strict.stream(events)
        assert "response.compaction.compacting" not in [event["type"] for event in events]  # nobody has asked for it
        added = next(event for event in events if event["type"] == "response.output_item.added")
        assert added["item"] == {**response["output"][0], "encrypted_content": ""}
    else:
        response = strict.response(await anyone.create("two", **fields))
    assert [item["type"] for item in response["output"]] == ["compaction", "message"]
    item = compaction_of(response["output"])
    assert said(backend.requests[1])[:3] == ["one", "1", "two"]
    assert said(backend.requests[1])[3:] == [QUESTION]
    assert gist(backend.requests[2]) == ["two"]  # what was still to be answered
    assert response["usage"]["input_tokens"] == 2000 + (0 if streamed else 1)

    if stored:
        await anyone.create("three", previous_response_id=response["id"])
        assert strict.response(await anyone.get(f"/responses/{response['id']}")) == response
        page = await anyone.get(f"/responses/{response['id']}/input_items", order="asc")
        assert [entry["content"][0]["text"] for entry in page["data"]] == ["one", "1", "two"]
    else:
        input_ = [{"role": "user", "content": "two"}, *response["output"], {"role": "user", "content": "three"}]
        assert item in input_
        await anyone.create(input_)
    assert gist(backend.requests[3]) == ["two", "2", "three"]


async def test_a_conversation_goes_on_from_its_compaction(anyone, backend):
    conversation = await anyone.conversation()
    backend.script(json_reply({**completion("1"), "usage": {"prompt_tokens": 5000, "completion_tokens": 1}}))
    await anyone.create("one", conversation=conversation)
    backend.script(summary())
    response = await anyone.create("two", conversation=conversation, **LIMIT)
    item = compaction_of(response["output"])
    await anyone.create("three", conversation=conversation)
    assert gist(backend.requests[-1]) == ["two", "Hi", "three"]
    listed = await anyone.get(f"/conversations/{conversation}/items", order="asc")
    assert item in strict.item_list(listed, of_conversation=True) and len(listed["data"]) == 7
    ok(await anyone.http.delete(f"/conversations/{conversation}/items/{item['id']}"))
    await anyone.create("four", conversation=conversation)
    assert said(backend.requests[-1])[:3] == ["one", "1", "two"]


async def test_below_the_threshold_and_without_figures_nothing_is_compacted(caller, backend):
    first = await caller.create("one", **LIMIT)
    second = await caller.create("two", previous_response_id=first["id"], **LIMIT)
    backend.script(json_reply({**completion(), "usage": None}))
    third = await caller.create("three", previous_response_id=second["id"], **LIMIT)
    fourth = await caller.create("four", previous_response_id=third["id"], **LIMIT)
    assert [item["type"] for item in fourth["output"]] == ["message"]
    assert len(backend.requests) == 4


async def test_the_figures_of_a_turn_that_was_compacted_do_not_count(caller, backend):
    """They hold the summary's own call, and would have every later turn compacted."""
    backend.script(json_reply({**completion("1"), "usage": {"prompt_tokens": 5000, "completion_tokens": 1}}))
    first = await caller.create("one")
    backend.script(summary())
    second = await caller.create("two", previous_response_id=first["id"], **LIMIT)
    assert second["usage"]["total_tokens"] > 1000
    third = await caller.create("three", previous_response_id=second["id"], **LIMIT)
    assert [item["type"] for item in third["output"]] == ["message"]


@pytest.mark.parametrize("batches", [1, 3])
async def test_items_added_to_a_conversation_by_hand_do_not_hide_the_figures_before_them(caller, backend, batches):
    conversation = await caller.conversation(items=[{"role": "user", "content": "zero"}])
    backend.script(json_reply({**completion("1"), "usage": {"prompt_tokens": 5000, "completion_tokens": 1}}))
    await caller.create("one", conversation=conversation)
    for _ in range(batches):
        added = {"items": [{"role": "assistant", "content": "by hand"}]}
        ok(await caller.http.post(f"/conversations/{conversation}/items", json=added))
    backend.script(summary())
    response = await caller.create("two", conversation=conversation, **LIMIT)
    assert [item["type"] for item in response["output"]] == ["compaction", "message"]


async def test_figures_from_before_a_compaction_added_by_hand_do_not_count(caller, backend):
    backend.script(summary())
    item = compaction_of((await compacted(caller, input="zero"))["output"])
    conversation = await caller.conversation()
    backend.script(json_reply({**completion("1"), "usage": {"prompt_tokens": 5000, "completion_tokens": 1}}))
    await caller.create("one", conversation=conversation)
    added = {"items": [item, {"role": "user", "content": "more"}, {"role": "assistant", "content": "by hand"}]}
    ok(await caller.http.post(f"/conversations/{conversation}/items", json=added))
    response = await caller.create("two", conversation=conversation, **LIMIT)
    assert [item["type"] for item in response["output"]] == ["message"]


async def test_figures_of_another_talk_do_not_count(caller, backend):
    backend.script(json_reply({**completion("1"), "usage": {"prompt_tokens": 5000, "completion_tokens": 1}}))
    other = await caller.create("one")
    conversation = await caller.conversation(items=other["output"])
    response = await caller.create("two", conversation=conversation, **LIMIT)
    assert [item["type"] for item in response["output"]] == ["message"]


async def test_the_upstreams_own_tokenizer_decides_where_it_has_one(calling, backend):
    caller = await calling("--upstream-kind=vllm")
    backend.script(json_reply({"count": 1001, "max_model_len": 4096, "tokens": []}))
    backend.script(summary())
    input_ = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "2"},
    ]
    response = await caller.create(input_, **LIMIT)
    assert [item["type"] for item in response["output"]] == ["compaction", "message"]
    backend.script(json_reply({"count": 1000, "max_model_len": 4096, "tokens": []}))
    response = await caller.create(input_, **LIMIT)
    assert [item["type"] for item in response["output"]] == ["message"]
    paths = [request.target for request in backend.requests]
    chat = "/v1/chat/completions"
    assert paths == ["/tokenize", chat, chat, "/tokenize", chat]


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_what_the_upstream_refuses_as_too_long_is_compacted_once(caller, backend, streamed):
    first = await caller.create("one")
    backend.script(TOO_LONG)
    backend.script(summary())
    backend.script(stream(*talk("2")) if streamed else json_reply(completion("2")))
    fields = {"previous_response_id": first["id"], "context_management": [{"type": "compaction"}]}
    if streamed:
        response = strict.stream(await caller.events("two", **fields))
    else:
        response = strict.response(await caller.create("two", **fields))
    assert [item["type"] for item in response["output"]] == ["compaction", "message"]
    assert gist(backend.requests[-1]) == ["two"]
    backend.script(TOO_LONG)
    backend.script(summary())
    backend.script(TOO_LONG)
    assert refusal(await caller.ask("two", stream=streamed, **fields)) == (400, "context_length_exceeded", None)


async def test_a_turn_that_gets_no_summary_goes_on_without(caller, backend):
    backend.script(json_reply({**completion("1"), "usage": {"prompt_tokens": 5000, "completion_tokens": 1}}))
    first = await caller.create("one")
    backend.script(summary(""))
    second = await caller.create("two", previous_response_id=first["id"], **LIMIT)
    assert [item["type"] for item in second["output"]] == ["message"]
    assert said(backend.requests[2]) == ["one", "1", "two"]
    backend.script(TOO_LONG)
    backend.script(summary(""))
    answer = await caller.ask("three", previous_response_id=first["id"], context_management=[{"type": "compaction"}])
    assert refusal(answer) == (400, "context_length_exceeded", None)
    before = len(backend.requests)
    backend.script(TOO_LONG)
    backend.script(summary(""))  # asked for once
    backend.script(TOO_LONG)
    fields = {"context_management": [{"type": "compaction"}], "truncation": "auto"}
    await caller.create("three", previous_response_id=second["id"], **fields)
    assert [said(request)[-1] for request in backend.requests[before:]] == ["three", QUESTION, "three", "three"]
    assert said(backend.requests[-1]) == ["three"]


# -- what becomes of the answer after it

F = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}
NAMELESS = {"index": 0, "id": "c", "type": "function", "function": {"arguments": "{}"}}
FORBIDDEN = {**NAMELESS, "function": {"name": "g", "arguments": "{}"}}
ONLY_F = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}
AFTERWARDS = {  # the answer, the status of a plain request, that of a stream, which stays 200 once it has begun
    "a 429": (json_reply({"error": {"message": "no"}}, status=429), 429, 429),
    "a 500": (json_reply({"error": {"message": "no"}}, status=500), 500, 500),
    "a 400": (json_reply({"error": {"message": "no"}}, status=400), 400, 400),
    "an error as the first payload": (stream({"error": {"message": "no", "code": 503}}, DONE), 503, 503),
    "only the end": (stream(DONE), 502, 502),
    "a forbidden call": (stream(chunk({"tool_calls": [FORBIDDEN]}), chunk({}, "tool_calls"), DONE), 502, 200),
    "a nameless call": (stream(chunk({"tool_calls": [NAMELESS]}), chunk({}, "tool_calls"), DONE), 502, 200),
    "an end without output": (stream(chunk({"role": "assistant"}), DONE), 502, 200),
    "an error in the middle": (stream(chunk({"role": "assistant"}), {"error": {"message": "no"}}), 502, 200),
}


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("what", AFTERWARDS)
async def test_an_answer_that_fails_after_a_compaction_fails_as_any_other(caller, backend, what, streamed):
    script, *statuses = AFTERWARDS[what]
    first = await caller.create("one")
    for step in (TOO_LONG, summary(), script):
        backend.script(step)
    tools = {"tools": [F, {**F, "name": "g"}], "tool_choice": ONLY_F}
    fields = {"previous_response_id": first["id"], "context_management": [{"type": "compaction"}], **tools}
    answer = await caller.ask("two", stream=streamed, **fields)
    assert answer.status_code == statuses[streamed]
    if answer.status_code != 200:
        assert error_of(answer)
    else:
        response = strict.stream(unframed(answer.content))
        assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
        assert [item["type"] for item in response["output"]] == ["compaction"]


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_an_empty_answer_after_a_compaction_is_an_empty_message(caller, backend, streamed):
    first = await caller.create("one")
    for step in (TOO_LONG, summary(), stream(*talk("")) if streamed else json_reply(completion(""))):
        backend.script(step)
    fields = {"previous_response_id": first["id"], "context_management": [{"type": "compaction"}]}
    if streamed:
        response = strict.stream(await caller.events("two", **fields))
    else:
        response = strict.response(await caller.create("two", **fields))
    assert response["status"] == "completed"
    assert [item["type"] for item in response["output"]] == ["compaction", "message"]
    assert response["output"][1]["content"][0]["text"] == ""


async def test_a_stream_begun_before_its_compaction_shows_it_before_the_answer(calling, backend):
    caller = await calling("--early-stream-after-seconds=0.05")
    first = await caller.create("one")
    summed, answered = asyncio.Event(), asyncio.Event()
    backend.script(TOO_LONG)
    backend.script(summed, summary())
    backend.script(answered, json_reply({"error": {"message": "no"}}, status=429))
    fields = {"previous_response_id": first["id"], "context_management": [{"type": "compaction"}]}
    async with asyncio.timeout(PATIENCE), caller.opened("two", **fields) as opened:
        await opened.until("response.in_progress")
        summed.set()
        assert (await opened.until("response.output_item.done"))["item"]["type"] == "compaction"
        answered.set()
        events = await opened.rest()
    response = events[-2]["response"]
    assert (response["status"], response["error"]["code"]) == ("failed", "rate_limit_exceeded")
    assert [item["type"] for item in response["output"]] == ["compaction"]


# -- a trigger


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_a_trigger_compacts_now_and_ends(anyone, backend, streamed):
    first = await anyone.create("one")
    backend.script(summary())
    if streamed:
        events = await anyone.events([TRIGGER], previous_response_id=first["id"])
        response = strict.stream(events)
        assert [event["type"].removeprefix("response.") for event in events] == [
            "created",
            "in_progress",
            "output_item.added",
            "compaction.compacting",
            "output_item.done",
            "completed",
        ]
    else:
        response = strict.response(await anyone.create([TRIGGER], previous_response_id=first["id"]))
    assert [item["type"] for item in response["output"]] == ["compaction"]
    compaction_of(response["output"])
    assert response["usage"]["total_tokens"] == 2005
    assert response["previous_response_id"] == first["id"]
    assert len(backend.requests) == 2
    await anyone.create("two", previous_response_id=response["id"])
    assert gist(backend.requests[-1]) == ["two"]
    page = await anyone.get(f"/responses/{response['id']}/input_items", order="asc")
    assert [item["type"] for item in page["data"]] == ["message", "message"]  # the trigger says nothing


@pytest.mark.parametrize("in_a_conversation", [False, True], ids=["chain", "conversation"])
async def test_a_call_that_is_open_when_a_trigger_compacts_can_still_be_answered(anyone, backend, in_a_conversation):
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    place = {"conversation": await anyone.conversation()} if in_a_conversation else {}
    first = await anyone.create("one", **place)
    after = place or {"previous_response_id": first["id"]}
    backend.script(json_reply({**completion(), "choices": [{"message": message, "finish_reason": "tool_calls"}]}))
    second = await anyone.create("two", **after, tools=[F])
    backend.script(summary())
    third = await anyone.create([TRIGGER], **place or {"previous_response_id": second["id"]})
    output = {"type": "function_call_output", "call_id": "c", "output": "42"}
    await anyone.create([output], **place or {"previous_response_id": third["id"]}, tools=[F])
    messages = backend.requests[-1].json["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "tool"]
    assert gist(backend.requests[-1])[0] == "two" and gist(backend.requests[-1])[2] == "42"


async def test_a_trigger_whose_compaction_cannot_be_kept_gives_it_in_a_failed_response(caller, backend, valkey):
    conversation = await caller.conversation(items=[{"role": "user", "content": "one"}])
    summed = asyncio.Event()
    backend.script(summed, summary())
    asking = asyncio.create_task(caller.create([TRIGGER], conversation=conversation))
    await backend.received(1)
    with valkey.admin() as store:
        assert store.delete(f"sc:{{{conversation[5:21]}}}:k") == 1
    summed.set()
    response = strict.response(await asking)
    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
    assert [item["type"] for item in response["output"]] == ["compaction"]


async def test_a_trigger_with_nothing_before_it_is_refused(caller, backend):
    assert refusal(await caller.ask([TRIGGER])) == (400, None, "input")
    assert refusal(await caller.ask([TRIGGER, {"role": "user", "content": "x"}])) == (
        400,
        "invalid_value",
        "input[0].type",
    )
    assert backend.requests == []


async def test_a_trigger_that_fails_is_an_http_error_for_a_stream_too(caller, backend):
    first = await caller.create("one")
    backend.script(stream({"error": {"message": "no", "code": 503}}, DONE))
    answer = await caller.ask([TRIGGER], stream=True, previous_response_id=first["id"])
    assert (answer.status_code, error_of(answer)["message"]) == (503, "no")


# -- what ends it


async def test_a_client_that_leaves_ends_the_call_for_its_summary(caller, backend):
    backend.script(asyncio.Event())
    asking = asyncio.create_task(compacted(caller, input="one"))
    request = await backend.received(1)
    asking.cancel()
    async with asyncio.timeout(PATIENCE):
        await request.gone.wait()


@pytest.mark.live
async def test_a_server_that_ends_tells_those_who_wait_to_come_again(calling, backend):
    caller = await calling("--grace", "0")
    backend.script(asyncio.Event())
    asking = asyncio.create_task(caller.http.post("/responses/compact", json={"model": "m", "input": "one"}))
    await backend.received(1)
    signal.raise_signal(signal.SIGTERM)
    answer = await asking
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert error_of(answer)


async def test_without_the_store_a_past_cannot_be_compacted(calling, backend, tmp_path):
    caller = await calling("--tenant=off", store=f"unix://{tmp_path}/none")
    body = {"model": "m", "previous_response_id": "resp_" + "0" * 48}
    answer = await caller.http.post("/responses/compact", json=body)
    assert refusal(answer)[:2] == (503, "store_unavailable")
    assert backend.requests == []


# -- whose it is


async def test_a_compaction_of_another_maker_caller_or_key_is_refused(calling, serve, backend):
    url = await serve(KEY)
    async with Caller(url) as owner, Caller(url) as stranger:
        backend.script(summary())
        item = compaction_of((await compacted(owner, input="one"))["output"])
        sealed = item["encrypted_content"]
        turned = sealed[:-6] + ("A" if sealed[-6] != "A" else "B") + sealed[-5:]
        follow = {"role": "user", "content": "two"}
        for asker, content in ((stranger, sealed), (owner, turned), (owner, "gAAAAAB"), (owner, "sc0.e30")):
            answer = await asker.ask([{"type": "compaction", "encrypted_content": content}, follow])
            assert refusal(answer) == (400, "invalid_encrypted_content", "input")
        assert ok(await owner.ask([item, follow]))
        other = await serve("--seal-key=a key that came later", KEY)
        async with Caller(other, owner.key) as rotated:
            assert ok(await rotated.ask([item, follow]))
        keyless = await serve()
        async with Caller(keyless, owner.key) as without:
            assert refusal(await without.ask([item, follow]))[1] == "invalid_encrypted_content"
