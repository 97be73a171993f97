"""The checks of ``strict`` can fail: a valid answer with one thing wrong is found out."""

import copy
import json

import httpx
import pytest

from tests.backend import stream, talk
from tests.callers import unframed
from tests.live import strict
from tests.live.conftest import calling

pytestmark = pytest.mark.live


@pytest.fixture
async def talked(scripted, backend):
    """The events of a stream that says two words."""
    backend.script(stream(*talk("Hel", "lo")))
    async with calling(scripted) as caller:
        events = unframed((await caller.ask(stream=True)).content)
    assert strict.stream(events)["status"] == "completed"
    return events


def response_faults(response):
    yield from ({k: v for k, v in response.items() if k != key} for key in strict.OPEN_RESPONSES)
    yield from (response | {key: [1.5]} for key in strict.OPEN_RESPONSES if key not in ("output", "tools"))
    yield response | {"created_at": float(response["created_at"])}
    yield response | {"completed_at": None}
    yield response | {"reasoning": {}}
    yield response | {"status": "done"}
    yield response | {"output": [{**response["output"][0], "content": "Hello"}]}
    yield response | {"output": [{**response["output"][0], "role": None}]}
    yield response | {"usage": None}
    yield response | {"usage": {**response["usage"], "total_tokens": 99}}


async def test_a_response_with_one_thing_wrong_is_found_out(talked):
    response = talked[-1]["response"]
    strict.response(response)
    for broken in response_faults(response):
        with pytest.raises((AssertionError, TypeError, KeyError)):
            strict.response(broken)


def stream_faults(events):
    for place in range(len(events)):
        yield [one for at, one in enumerate(events) if at != place]
        yield [*events[: place + 1], *events[place:]]
    renumbered = copy.deepcopy(events)
    deltas = [one for one in renumbered if "delta" in one]
    deltas[0]["delta"] = "Hal"
    yield renumbered
    for key in ("item_id", "output_index", "content_index", "logprobs"):
        broken = copy.deepcopy(events)
        for one in broken:
            if "delta" in one:
                one[key] = None
        yield broken


async def test_a_stream_with_one_thing_wrong_is_found_out(talked):
    for broken in stream_faults(talked):
        with pytest.raises((AssertionError, TypeError, IndexError, KeyError)):
            strict.stream(broken)
    for missing in range(len(talked)):  # the same, with the numbers put right
        broken = copy.deepcopy([one for at, one in enumerate(talked) if at != missing])
        for number, one in enumerate(broken):
            one["sequence_number"] = number
        with pytest.raises((AssertionError, IndexError, KeyError)):
            strict.stream(broken)


@pytest.mark.skipif(not strict.OPENAPI.exists(), reason="OpenAI's API description is not at hand")
async def test_openais_description_is_consulted(talked):
    response = talked[-1]["response"]
    strict.response(response)
    with pytest.raises(AssertionError, match="openapi"):
        strict.response(response | {"top_logprobs": 21})  # the client's models have no bounds


ITEM = {"id": "msg_1", "type": "message", "role": "user", "status": "completed", "content": []}
PAGE = {"object": "list", "data": [ITEM], "first_id": "msg_1", "last_id": "msg_1", "has_more": False}
CONVERSATION = {"id": "conv_1", "object": "conversation", "created_at": 1, "metadata": {}}
USAGE = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
USAGE |= {"input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0}}
USAGE |= {"output_tokens_details": {"reasoning_tokens": 0}}
SEALED = {"id": "cmp_1", "type": "compaction", "encrypted_content": "x"}
COMPACTED = {"id": "resp_1", "object": "response.compaction", "created_at": 1, "output": [ITEM, SEALED], "usage": USAGE}
ERROR = {"error": {"message": "No.", "type": "invalid_request_error", "param": None, "code": None}}
GONE = {"id": "resp_1", "object": "response", "deleted": True}

ANSWERS = [
    ("GET", "/responses/resp_1/input_items", 200, PAGE, PAGE | {"last_id": None}),
    ("POST", "/conversations/conv_1/items", 200, PAGE, PAGE | {"data": [ITEM, ITEM]}),
    ("GET", "/conversations/conv_1/items/msg_1", 200, ITEM, ITEM | {"content": "x"}),
    ("POST", "/conversations", 200, CONVERSATION, CONVERSATION | {"created_at": 1.0}),
    ("DELETE", "/conversations/conv_1/items/msg_1", 200, CONVERSATION, CONVERSATION | {"name": "x"}),
    ("DELETE", "/conversations/conv_1", 200, GONE | {"object": "conversation.deleted"}, GONE),
    ("DELETE", "/responses/resp_1", 200, GONE, GONE | {"deleted": False}),
    (
        "POST",
        "/responses/input_tokens",
        200,
        {"object": "response.input_tokens", "input_tokens": 3},
        {"input_tokens": 3},
    ),
    ("POST", "/responses/compact", 200, COMPACTED, COMPACTED | {"output": [ITEM]}),
    ("POST", "/responses/compact", 200, COMPACTED, COMPACTED | {"output": [ITEM | {"role": "assistant"}, SEALED]}),
    ("POST", "/responses/compact", 200, COMPACTED, COMPACTED | {"usage": None}),
    ("POST", "/responses", 400, ERROR, {"error": {"message": "No."}}),
    ("GET", "/responses", 200, PAGE | {"data": [], "first_id": None, "last_id": None}, PAGE),
]


def clients(status, headers, content):
    """Both kinds of client, watched, of a server that always answers so."""

    def answer(request):
        return httpx.Response(status, headers=headers, stream=httpx.ByteStream(content.encode()))

    transport = httpx.MockTransport(answer)
    yield httpx.Client(transport=transport, base_url="http://x/v1", event_hooks={"response": [strict.watch]})
    yield httpx.AsyncClient(transport=transport, base_url="http://x/v1", event_hooks={"response": [strict.watch_async]})


async def called(client, method, path):
    if isinstance(client, httpx.Client):
        with client:
            return client.request(method, path)
    async with client:
        return await client.request(method, path)


@pytest.mark.parametrize(("method", "path", "status", "good", "bad"), ANSWERS)
async def test_a_watched_client_refuses_a_wrong_answer(method, path, status, good, bad):
    headers = {"content-type": "application/json", "x-request-id": "req_1"}
    for client in clients(status, headers, json.dumps(good)):
        assert (await called(client, method, path)).json() == good
    for client in clients(status, headers, json.dumps(bad)):
        with pytest.raises((AssertionError, KeyError)):
            await called(client, method, path)


async def test_a_watched_client_refuses_a_wrong_stream(talked):
    def framed(events):
        frames = [f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in events]
        return "".join([*frames, "data: [DONE]\n\n"])

    headers = {"content-type": "text/event-stream", "x-request-id": "req_1"}
    for client in clients(200, headers, framed(talked)):
        await called(client, "POST", "/responses")
    for broken in (framed(talked[:-1]), framed(talked).removesuffix("data: [DONE]\n\n")):
        for client in clients(200, headers, broken):
            with pytest.raises(AssertionError):
                await called(client, "POST", "/responses")


async def test_a_watched_client_passes_what_is_not_ours(talked):
    for client in clients(418, {}, "x"):
        assert (await called(client, "GET", "/models")).status_code == 418
