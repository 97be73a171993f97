"""What the compliance suite of Open Responses sends and demands, in all its generations (wire §14.2).

Every answer and every event must fit the schemas that lie beside this file.
"""

import asyncio
import functools
import json
from contextlib import AsyncExitStack
from pathlib import Path

import jsonschema
import pytest

from tests.callers import error_of, ok, unframed
from tests.live import strict
from tests.live.conftest import calling
from tests.sockets import opened

pytestmark = pytest.mark.live

SCHEMAS = json.loads(Path(__file__).with_name("openresponses.schema.json").read_text("utf-8"))
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather for a location",
    "parameters": {
        "type": "object",
        "properties": {"location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"}},
        "required": ["location"],
    },
}
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="


@functools.cache
def validator(name):
    return jsonschema.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": SCHEMAS["$defs"]})


def fits(value, name):
    faults = [
        f"{'/'.join(map(str, one.absolute_path))}: {one.message[:300]}" for one in validator(name).iter_errors(value)
    ]
    assert not faults, f"{name}: {faults}\n{json.dumps(value)[:2000]}"
    return value


def message(role, content, **more):
    return {"type": "message", "role": role, "content": content, **more}


def user(*content):
    return message("user", content[0] if len(content) == 1 else list(content))


def completed(response):
    assert (response["status"], bool(response["output"])) == ("completed", True)


def calls(response):
    assert [item["type"] for item in response["output"]].count("function_call") >= 1


HELLO = {"input": [user("Say hello in exactly 3 words.")]}
TOOLS = {"input": [user("What's the weather like in San Francisco?")], "tools": [WEATHER]}
TEXT = {"type": "input_text", "text": "What do you see in this image? Answer in one sentence."}
PDF = {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0xLjQK"}
TALK = [user("My name is Alice."), message("assistant", "Hello Alice!"), user("What is my name?")]
PHASES = [
    user("Find the bug."),
    message("assistant", "Let me look.", phase="commentary"),
    message("assistant", "It is in line 3.", phase="final_answer"),
    user("Thank you. What did you find?"),
]

SINGLE = {
    "basic-response": (HELLO, completed),
    "system-prompt": ({"input": [message("system", "You are a pirate."), user("Say hello.")]}, completed),
    "tool-calling": (TOOLS, calls),
    "image-input-data-url": (
        {"input": [user(TEXT, {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"})]},
        completed,
    ),
    "image-input-https": (
        {"input": [user(TEXT, {"type": "input_image", "image_url": "https://example.org/a.png"})]},
        completed,
    ),
    "file-input": ({"input": [user({**TEXT, "text": "What does this say?"}, PDF)]}, completed),
    "multi-turn": ({"input": TALK}, completed),
    "assistant-phase": ({"input": PHASES}, completed),
}
"""Checks of one plain request: its body and what the answer must be."""

FORMS = [pytest.param({}, id="current"), pytest.param({"stream": False}, id="older")]
"""What a request says of streams: nothing now, ``false`` in older generations."""


async def ask(caller, **body):
    answer = await caller.http.post("/responses", json={"model": "demo", **body})
    return fits(ok(answer), "ResponseResource")


async def events(caller, **body):
    answer = await caller.http.post("/responses", json={"model": "demo", "stream": True, **body})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.content.endswith(b"data: [DONE]\n\n")
    found = unframed(answer.content)
    for event in found:
        fits(event, "StreamingEvent")
    fits(found[-1]["response"], "ResponseResource")
    return found


@pytest.fixture
async def caller(on_valkey):
    async with calling(on_valkey) as caller:
        yield caller


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", SINGLE)
async def test_a_plain_request(caller, name, form):
    body, check = SINGLE[name]
    check(await ask(caller, **body, **form))


async def test_streaming_response(caller):
    found = await events(caller, **HELLO)
    completed(found[-1]["response"])
    assert found[-1]["type"] == "response.completed"


async def test_tool_calling_streaming(caller):
    found = await events(caller, **TOOLS)
    calls(found[-1]["response"])
    told = {(event["type"], event.get("item", {}).get("type")) for event in found}
    assert told >= {
        ("response.output_item.added", "function_call"),
        ("response.output_item.done", "function_call"),
        ("response.function_call_arguments.delta", None),
        ("response.function_call_arguments.done", None),
    }


@pytest.mark.parametrize("form", FORMS)
async def test_function_call_roundtrip(caller, form):
    choice = {"type": "function", "name": "get_weather"}
    first = await ask(caller, input="What's the weather in Paris?", tools=[WEATHER], tool_choice=choice, **form)
    calls(first)
    (call,) = [item for item in first["output"] if item["type"] == "function_call"]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": '{"temperature": 20}'}
    second = await ask(caller, previous_response_id=first["id"], input=[output], **form)
    completed(second)
    assert "20" in second["output"][0]["content"][0]["text"]


@pytest.mark.parametrize("form", FORMS)
async def test_previous_response_id(caller, form):
    first = await ask(caller, input="My name is Alice.", **form)
    completed(first)
    second = await ask(caller, input="What is my name?", previous_response_id=first["id"], **form)
    completed(second)
    assert "Alice" in second["output"][0]["content"][0]["text"]


def test_response_output_phase_schema():
    """The suite checks its own schema here and sends nothing."""
    text = {"type": "output_text", "text": "x", "annotations": [], "logprobs": []}
    said = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [text]}
    for phase in ("commentary", "final_answer"):
        fits({**said, "phase": phase}, "Message")
    with pytest.raises(AssertionError):
        fits({**said, "phase": "another"}, "Message")


COMPACT = {"prompt_cache_key": "a-key", "input": [user("My name is Alice."), message("assistant", "Hello Alice!")]}


async def test_compact_response(caller):
    made = ok(await caller.http.post("/responses/compact", json={"model": "demo", **COMPACT}))
    strict.compacted(fits(made, "CompactResource"))
    assert made["object"] == "response.compaction"
    assert [item["type"] for item in made["output"]].count("compaction") == 1
    follow = await ask(caller, input=[*made["output"], user("Say hello.")], tools=[])
    completed(follow)


async def test_compact_missing_model(caller):
    answer = await caller.http.post("/responses/compact", json=COMPACT)
    assert answer.status_code == 400
    assert error_of(answer)["param"] == "model"


# -- over a WebSocket


@pytest.fixture
async def socket(on_valkey):
    async with opened(on_valkey.url) as socket:
        yield socket


async def told(socket, *content, **body):
    """The last event of a turn, every one of which fits the suite's schemas."""
    found = await socket.ask([user(*content)] if content else body.pop("input"), model="demo", **body)
    if found[-1]["type"] == "error":
        assert isinstance(found[-1]["error"]["code"], str)
        return found[-1]
    for event in found:
        fits(event, "StreamingEvent")
    fits(found[-1]["response"], "ResponseResource")
    return found[-1]


def is_missing(last):
    assert (last["type"], last["error"]["code"]) == ("error", "previous_response_not_found")


async def test_websocket_response(socket):
    completed((await told(socket, "Say hello in exactly 3 words."))["response"])


async def test_websocket_sequential_responses(socket):
    for n in ("one", "two"):
        completed((await told(socket, f"Say {n}.", store=False))["response"])


async def test_websocket_continuation(socket):
    first = (await told(socket, "My name is Alice.", store=False))["response"]
    second = (await told(socket, "What is my name?", store=False, previous_response_id=first["id"]))["response"]
    completed(second)
    assert "Alice" in second["output"][0]["content"][0]["text"]


async def test_websocket_generate_false(socket):
    first = (await told(socket, "My name is Alice.", generate=False, store=False))["response"]
    assert (first["status"], first["output"]) == ("completed", [])
    second = (await told(socket, "What is my name?", previous_response_id=first["id"]))["response"]
    completed(second)
    assert "Alice" in second["output"][0]["content"][0]["text"]


async def test_websocket_reconnect_store_false_recovery(on_valkey, socket):
    first = (await told(socket, "Remember 7.", store=False))["response"]
    async with opened(on_valkey.url) as again:
        is_missing(await told(again, "Which number?", store=False, previous_response_id=first["id"]))
        completed((await told(again, "Say seven.", store=False))["response"])


async def test_websocket_previous_response_not_found(socket):
    is_missing(await told(socket, "Hello?", previous_response_id="resp_does_not_exist"))


async def test_websocket_failed_continuation_evicts_cache(socket):
    first = (await told(socket, "Remember 7.", store=False))["response"]
    orphan = [{"type": "function_call_output", "call_id": "call_missing", "output": "x"}]
    last = await told(socket, input=orphan, store=False, previous_response_id=first["id"])
    assert last["type"] in ("error", "response.failed")
    is_missing(await told(socket, "Which number?", store=False, previous_response_id=first["id"]))


async def test_websocket_compact_new_chain(caller, socket):
    made = ok(await caller.http.post("/responses/compact", json={"model": "demo", **COMPACT}))
    completed((await told(socket, input=[*made["output"], user("Say hello.")], tools=[]))["response"])


async def test_websockets_at_the_same_time(on_valkey):
    """As the suite starts them."""
    async with AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(opened(on_valkey.url)) for _ in range(10)]
        for last in await asyncio.gather(*(told(socket, "Say hello.") for socket in sockets)):
            completed(last["response"])


async def test_all_at_the_same_time(caller):
    """As the suite starts them."""
    rows = [*SINGLE.values()] * 3
    answers = await asyncio.gather(
        *(ask(caller, **body) for body, _ in rows), *(events(caller, **HELLO) for _ in range(4))
    )
    for (_, check), response in zip(rows, answers, strict=False):
        check(response)


def response_faults(response):
    """A response with one thing that the suite's schema refuses (wire §14.4)."""
    yield from ({**response, "created_at": 1.5}, {**response, "reasoning": {}}, {**response, "instructions": ["x"]})
    for key in ("completed_at", "safety_identifier", "presence_penalty"):
        yield {name: value for name, value in response.items() if name != key}
    for key in ("temperature", "top_logprobs", "service_tier"):
        yield {**response, key: None}
    yield {**response, "reasoning": {"effort": "minimal", "summary": None}}
    yield {**response, "tools": [{"type": "function", "name": "f"}]}
    yield {**response, "text": {**response["text"], "verbosity": None}}
    yield {**response, "usage": {**response["usage"], "input_tokens_details": None}}
    thought = {"id": "rs_1", "type": "reasoning", "summary": []}
    yield from ({**response, "output": [{**thought, key: None}]} for key in ("content", "encrypted_content"))


async def test_the_schema_refuses_what_the_suite_refuses(caller):
    response = await ask(caller, **HELLO)
    for broken in response_faults(response):
        with pytest.raises(AssertionError, match="ResponseResource"):
            fits(broken, "ResponseResource")
