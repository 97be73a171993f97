"""``truncation: auto``: a context that the upstream refuses as too long is asked about again, shorter (wire §10.7)."""

import logging

import pytest

from tests.backend import DONE, chunk, completion, json_reply, stream, talk
from tests.callers import error_of, ok, refusal
from tests.live import strict

TOO_LONG = {
    "error": {"message": "This model's maximum context length is 9 tokens.", "type": "BadRequestError", "code": 400}
}
LLAMACPP = {"error": {"code": 400, "message": "the request exceeds n_ctx", "type": "exceed_context_size_error"}}
GEMINI = [
    {"error": {"code": 400, "message": "The input token count (2) exceeds the maximum number of tokens allowed (1)."}}
]
SGLANG = {"object": "error", "message": "The input (2 tokens) is longer than the model's context length (1 tokens)."}
REFUSALS = {
    "SGLang's": json_reply(SGLANG, status=400),
    "Gemini's": json_reply(GEMINI, status=400),
    "an HTTP error": json_reply(TOO_LONG, status=400),
    "llama.cpp's": json_reply(LLAMACPP, status=400),
    "an error under status 200": json_reply(TOO_LONG),
    "the first payload of a stream": stream(TOO_LONG, DONE),
    "after blank text": stream(chunk({"content": "  "}), TOO_LONG, DONE),
}
ANSWERS = {False: json_reply(completion("short")), True: stream(*talk("short"))}
HISTORY = [
    {"role": "developer", "content": "rule"},
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": "two"},
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": "o" * 50},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "three"},
]


def said(request):
    return [message["content"] for message in request.json["messages"]]


async def answer(caller, streamed, **fields):
    if streamed:
        return strict.stream(await caller.events(HISTORY, **fields))
    return strict.response(await caller.create(HISTORY, **fields))


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("refused", REFUSALS)
async def test_what_is_too_long_loses_its_oldest_turns_until_it_fits(caller, backend, refused, streamed):
    backend.script(REFUSALS[refused])
    backend.script(REFUSALS[refused])
    backend.script(ANSWERS[streamed])
    response = await answer(caller, streamed, truncation="auto", instructions="brief")
    first, second, third = (said(request) for request in backend.requests)
    assert first == ["brief\n\nrule", "one", "1", "two", "", "o" * 50, "2", "three"]
    assert second == ["brief\n\nrule", "two", "", "o" * 50, "2", "three"]
    assert third == ["brief\n\nrule", "three"]
    assert response["output"][0]["content"][0]["text"] == "short"
    assert response["truncation"] == "auto"
    assert response["output"][0]["content"][0]["text"] == "short"


async def test_nothing_that_is_stored_becomes_shorter(caller, backend):
    backend.script(REFUSALS["an HTTP error"])
    response = await answer(caller, False, truncation="auto")
    page = await caller.get(f"/responses/{response['id']}/input_items", limit=100)
    assert len(page["data"]) == len(HISTORY)
    await caller.create("four", previous_response_id=response["id"])
    assert said(backend.requests[-1]) == ["rule", "one", "1", "two", "", "o" * 50, "2", "three", "Hi", "four"]


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_without_it_the_refusal_is_passed_on_at_once(caller, backend, streamed):
    for fields in ({}, {"truncation": "disabled"}):
        backend.script(REFUSALS["an HTTP error"])
        answer = await caller.ask(HISTORY, stream=streamed, **fields)
        assert refusal(answer) == (400, "context_length_exceeded", None)
    assert len(backend.requests) == 2


async def test_after_eight_tries_the_refusal_is_passed_on(caller, backend):
    backend.default = (REFUSALS["an HTTP error"],)
    turns = [{"role": role, "content": role} for _ in range(100) for role in ("user", "assistant")]
    answer = await caller.ask([*turns, {"role": "user", "content": "last"}], truncation="auto", stream=True)
    assert refusal(answer) == (400, "context_length_exceeded", None)
    lengths = [len(said(request)) for request in backend.requests]
    assert len(lengths) == 8 and lengths == sorted(set(lengths), reverse=True)
    assert said(backend.requests[-1]) == ["last"]


async def test_where_nothing_may_go_nothing_is_tried(caller, backend):
    backend.default = (REFUSALS["an HTTP error"],)
    answer = await caller.ask("only this", truncation="auto")
    assert refusal(answer)[1] == "context_length_exceeded"
    assert len(backend.requests) == 1


async def test_another_refusal_shortens_nothing(caller, backend):
    backend.default = (json_reply({"error": {"message": "no such model"}}, status=404),)
    answer = await caller.ask(HISTORY, truncation="auto")
    assert (answer.status_code, error_of(answer)["message"]) == (404, "no such model")
    assert len(backend.requests) == 1


async def test_an_answer_that_has_begun_is_not_begun_again(caller, backend):
    backend.script(stream(chunk({"content": "Hal"}), TOO_LONG, DONE))
    events = await caller.events(HISTORY, truncation="auto")
    response = strict.stream(events)
    assert (response["status"], response["error"]["code"]) == ("failed", "context_length_exceeded")
    assert len(backend.requests) == 1


async def test_the_access_log_tells_how_much_was_left_out(caller, backend, caplog):
    backend.script(REFUSALS["an HTTP error"])
    with caplog.at_level(logging.INFO, "statecar.access"):
        ok(await caller.ask(HISTORY, truncation="auto"))
    (fields,) = [record.fields for record in caplog.records if record.name == "statecar.access"]
    assert fields["truncated_items"] == 2
