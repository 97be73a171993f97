"""The official clients before a backend that says what no demo model says: logprobs, refusals, filters, odd ends."""

import asyncio

import openai
import pytest

from tests.backend import CLOSE, DONE, PATIENCE, STREAM_HEAD, chunk, chunked, completion, json_reply, sse, stream, talk
from tests.live import strict
from tests.live.conftest import whole

pytestmark = pytest.mark.live


def replied(message, finish="stop", **rest):
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish, **rest}
    return json_reply(completion() | {"choices": [choice]})


def logged(token):
    entry = {"token": token, "logprob": -0.5, "bytes": list(token.encode())}
    return {"content": [{**entry, "top_logprobs": [entry]}], "refusal": None}


async def test_logprobs(scripted_client, backend):
    asked = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
    backend.script(replied({"content": "Hi"}, logprobs=logged("Hi")))
    made = await scripted_client.create(**asked)
    strict.response(whole(made))
    assert made.output[0].content[0].logprobs[0].token == "Hi"
    assert (backend.requests[0].json["logprobs"], backend.requests[0].json["top_logprobs"]) == (True, 1)
    pieces = [chunk({"content": text}) for text in ("Hel", "lo")]
    for piece, text in zip(pieces, ("Hel", "lo"), strict=True):
        piece["choices"][0]["logprobs"] = logged(text)
    backend.script(stream(*pieces, chunk({}, "stop"), DONE))
    events = await scripted_client.events(**asked)
    last = strict.stream([whole(event) for event in events])
    assert [entry["token"] for entry in last["output"][0]["content"][0]["logprobs"]] == ["Hel", "lo"]
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert [delta.logprobs[0].token for delta in deltas] == ["Hel", "lo"]


async def test_a_refusal(scripted_client, backend):
    backend.script(replied({"content": None, "refusal": "I must not."}))
    made = await scripted_client.create()
    strict.response(whole(made))
    assert made.output[0].content[0].refusal == "I must not."
    script = [chunk({"refusal": "I must "}), chunk({"refusal": "not."}), chunk({}, "stop"), DONE]
    backend.script(stream(*script))
    events, final = await scripted_client.helper()
    assert final.output[0].content[0].refusal == "I must not."
    backend.script(stream(*script))
    strict.stream([whole(event) for event in await scripted_client.events()])


async def test_a_content_filter_makes_an_answer_incomplete(scripted_client, backend):
    backend.script(stream(chunk({"content": "Hel"}), chunk({}, "content_filter"), DONE))
    last = strict.stream([whole(event) for event in await scripted_client.events()])
    assert last["incomplete_details"] == {"reason": "content_filter"}


async def test_an_answer_of_nothing_is_an_empty_message(scripted_client, backend):
    backend.script(stream(chunk({"role": "assistant", "content": ""}), chunk({}, "stop"), DONE))
    last = strict.stream([whole(event) for event in await scripted_client.events()])
    assert last["output"][0]["content"][0]["text"] == ""


async def test_usage_is_the_upstreams(scripted_client, backend):
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    backend.script(stream(*talk("Hi")[:-1], {"choices": [], "usage": usage}, DONE))
    last = strict.stream([whole(event) for event in await scripted_client.events()])
    assert last["usage"] == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 15,
    }
    assert backend.requests[0].json["stream_options"] == {"include_usage": True}


async def test_images_and_files_become_the_chat_apis_parts(scripted_client, backend):
    parts = [
        {"type": "input_text", "text": "Look"},
        {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="},
    ]
    await scripted_client.create([{"role": "user", "content": parts}])
    assert backend.requests[0].json["messages"][0]["content"] == [
        {"type": "text", "text": "Look"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}},
    ]


async def test_interleaved_calls_parse_in_the_stream_helper(scripted_client, backend):
    def call(index, arguments, **head):
        return chunk({"tool_calls": [{"index": index, **head, "function": {"arguments": arguments, **names(head)}}]})

    def names(head):
        return {"name": f"f{head['id']}"} if head else {}

    script = [
        call(0, '{"a"', id="1", type="function"),
        call(1, '{"b"', id="2", type="function"),
        call(0, ":1}"),
        call(1, ":2}"),
        chunk({}, "tool_calls"),
        DONE,
    ]
    tools = [
        {"type": "function", "name": name, "parameters": {"type": "object"}, "strict": False} for name in ("f1", "f2")
    ]
    backend.script(stream(*script))
    _, final = await scripted_client.helper(tools=tools)
    assert [(item.name, item.arguments) for item in final.output] == [("f1", '{"a":1}'), ("f2", '{"b":2}')]
    backend.script(stream(*script))
    strict.stream([whole(event) for event in await scripted_client.events(tools=tools)])


async def test_a_stream_that_breaks_off_is_an_event_no_exception(scripted_client, backend):
    backend.script(STREAM_HEAD + chunked(sse(*talk("Hel")[:2])), CLOSE)
    events = await scripted_client.events()
    assert events[-1].type == "response.failed"
    last = strict.stream([whole(event) for event in events])
    stored = await scripted_client.responses.retrieve(last["id"])
    assert whole(stored) == last


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize(
    ("status", "kind_"),
    [(401, openai.AuthenticationError), (429, openai.RateLimitError), (500, openai.InternalServerError)],
)
async def test_the_upstreams_refusals_are_the_clients_exceptions(scripted_client, backend, status, kind_, streamed):
    backend.script(json_reply({"error": {"message": "no"}}, status=status, headers=("retry-after: 3",)))
    with pytest.raises(kind_) as caught:
        await (scripted_client.events() if streamed else scripted_client.create())
    assert caught.value.response.headers["retry-after"] == "3"
    assert caught.value.body["message"] == "no"


async def test_an_error_as_first_payload_is_an_exception_for_streams_too(scripted_client, backend):
    backend.script(stream({"error": {"message": "too long", "code": 400}}, DONE))
    with pytest.raises(openai.BadRequestError, match="too long"):
        await scripted_client.events()


async def test_a_client_that_closes_its_stream_stops_the_upstream(scripted_client, backend):
    backend.script(STREAM_HEAD + chunked(sse(*talk("Hel")[:2])), asyncio.Event())
    stream = await scripted_client.create(stream=True)
    if scripted_client.is_async:
        created = await anext(stream)
        await stream.close()
    else:
        created = await asyncio.to_thread(next, stream)
        await asyncio.to_thread(stream.close)
    async with asyncio.timeout(PATIENCE):
        await backend.requests[0].gone.wait()
    with pytest.raises(openai.NotFoundError):
        await scripted_client.responses.retrieve(created.response.id)


@pytest.mark.parametrize("begun", [(), (STREAM_HEAD + chunked(sse(*talk("Hel")[:2])),)], ids=["silent", "begun"])
async def test_a_client_that_gives_up_waiting_stops_the_upstream(scripted_client, backend, begun):
    backend.default = (*begun, asyncio.Event())
    for patience in (0.5, PATIENCE / 2):  # on a busy machine it may give up before the upstream is asked
        with pytest.raises(openai.APITimeoutError):
            await scripted_client.create(timeout=patience)
        if backend.requests:
            break
    async with asyncio.timeout(PATIENCE):
        await backend.requests[0].gone.wait()
