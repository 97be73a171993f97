"""The official client, synchronous and asynchronous, on every kind of server: each object and event strictly valid."""

import json

import openai
import pydantic
import pytest

from tests.live import strict
from tests.live.conftest import whole

pytestmark = pytest.mark.live

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


class Person(pydantic.BaseModel):
    name: str
    age: int


def valid(response):
    strict.response(whole(response))
    return response


def streamed(events):
    return strict.stream([whole(event) for event in events])


async def test_text(client):
    made = valid(await client.create("Say: hello there", instructions="Be brief.", metadata={"k": "v"}))
    assert made.output_text == "This is statecar's demo model. hello there"
    assert made.id.startswith("resp_")
    assert made.output[0].id.startswith("msg_")
    assert (made.model, made.instructions, made.metadata) == ("demo", "Be brief.", {"k": "v"})
    assert made.usage.total_tokens == made.usage.input_tokens + made.usage.output_tokens > 0
    assert whole(await client.responses.retrieve(made.id)) == whole(made)


async def test_streamed_text_is_the_plain_answer_in_pieces(client):
    plain = valid(await client.create("Count to 5"))
    events = await client.events("Count to 5")
    last = streamed(events)
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == plain.output_text
    assert _nameless(last) == _nameless(whole(plain))
    assert whole(await client.responses.retrieve(last["id"])) == last


def _nameless(response):
    """A response without what differs from one to the next."""
    output = [{key: value for key, value in item.items() if key != "id"} for item in response["output"]]
    return {**response, "id": "", "created_at": 0, "completed_at": 0, "output": output}


async def test_the_stream_helper(client):
    events, final = await client.helper("Count to 3")
    assert final.output_text == "This is statecar's demo model. 1 2 3"
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert [event.snapshot for event in events if event.type == "response.output_text.delta"][-1] == final.output_text


async def test_parsed_output(client):
    made = await client.responses.parse(model="demo", input="My name is Ada. I am 36 years old.", text_format=Person)
    assert made.output_parsed == Person(name="Ada", age=36)
    stored = valid(await client.responses.retrieve(made.id))
    assert stored.text.format.type == "json_schema"
    assert stored.text.format.strict is True
    assert json.loads(stored.output_text) == {"name": "Ada", "age": 36}
    _, final = await client.helper("My name is Ada. I am 36 years old.", text_format=Person)
    assert final.output_parsed == Person(name="Ada", age=36)


async def test_json_mode(client):
    made = valid(await client.create("Say: hello", text={"format": {"type": "json_object"}}))
    assert json.loads(made.output_text) == {"answer": "hello"}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_a_tool_loop_by_previous_response_id(client, stream):
    asked = {"tools": [WEATHER], "tool_choice": "auto"}
    if stream:
        first = streamed(await client.events("What is the weather in Paris?", **asked))
        events, _ = await client.helper("What is the weather in Paris?", **asked)
        assert [e.arguments for e in events if e.type == "response.function_call_arguments.done"]
    else:
        first = whole(valid(await client.create("What is the weather in Paris?", **asked)))
    (call,) = first["output"]
    assert (call["type"], call["name"], json.loads(call["arguments"])) == (
        "function_call",
        "get_weather",
        {"city": "Paris"},
    )
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "Sunny"}
    second = valid(await client.create([output], previous_response_id=first["id"], **asked))
    assert second.output_text.endswith("The tool answered: Sunny")
    items = await client.pages(await client.responses.input_items.list(second.id, order="asc"))
    assert [item.type for item in items] == ["message", "function_call", "function_call_output"]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_parallel_tools_in_a_conversation(client, stream):
    conversation = await client.conversations.create()
    asked = {"tools": [WEATHER], "conversation": conversation.id}
    text = "What is the weather in Paris and in Rome?"
    first = streamed(await client.events(text, **asked)) if stream else whole(valid(await client.create(text, **asked)))
    calls = first["output"]
    assert [json.loads(call["arguments"])["city"] for call in calls] == ["Paris", "Rome"]
    assert len({call["call_id"] for call in calls}) == 2
    outputs = [
        {"type": "function_call_output", "call_id": call["call_id"], "output": f"{n}°"} for n, call in enumerate(calls)
    ]
    second = valid(await client.create(outputs, **asked))
    assert second.output_text.endswith("The tool answered: 0°; 1°")
    assert second.conversation.id == conversation.id
    items = await client.pages(await client.conversations.items.list(conversation.id, order="asc", limit=2))
    assert [item.type for item in items] == [
        "message",
        "function_call",
        "function_call",
        "function_call_output",
        "function_call_output",
        "message",
    ]
    for item in items:
        strict.item(whole(item))


async def test_one_call_at_a_time_and_a_named_tool(client):
    asked = {"tools": [WEATHER], "parallel_tool_calls": False}
    one = valid(await client.create("What is the weather in Paris and in Rome?", **asked))
    assert (len(one.output), one.parallel_tool_calls) == (1, False)
    named = valid(await client.create("Hi", tools=[WEATHER], tool_choice={"type": "function", "name": "get_weather"}))
    assert named.output[0].name == "get_weather"
    assert named.tool_choice.name == "get_weather"
    none = valid(await client.create("What is the weather in Paris?", tools=[WEATHER], tool_choice="none"))
    assert none.output[0].type == "message"


async def test_reasoning(client):
    made = valid(await client.create("Think: say hello"))
    assert [item.type for item in made.output] == ["reasoning", "message"]
    assert made.usage.output_tokens_details.reasoning_tokens > 0
    assert made.output[0].content[0].text.startswith("The user said")
    events = await client.events("Think: say hello")
    last = streamed(events)
    assert [item["type"] for item in last["output"]] == ["reasoning", "message"]
    summarised = streamed(await client.events("Think: say hello", reasoning={"summary": "auto"}))
    assert summarised["output"][0]["summary"][0]["text"].startswith("The user said")
    events, final = await client.helper("Think: say hello")
    assert final.output[0].type == "reasoning"


async def test_incomplete(client):
    made = valid(await client.create("Count to 100", max_output_tokens=16))
    assert (made.status, made.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert made.output[0].status == "incomplete"
    assert streamed(await client.events("Count to 100", max_output_tokens=16))["status"] == "incomplete"


async def test_images_and_files_are_stored_as_they_came(client):
    parts = [
        {"type": "input_text", "text": "Say: seen"},
        {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="},
    ]
    made = valid(await client.create([{"role": "user", "content": parts}]))
    (item,) = await client.pages(await client.responses.input_items.list(made.id))
    assert [part.type for part in item.content] == ["input_text", "input_image", "input_file"]
    assert item.content[1].image_url == parts[1]["image_url"]
    assert item.content[2].file_data == parts[2]["file_data"]
    strict.item(whole(item))


async def test_a_response_is_found_and_deleted(client):
    made = await client.create()
    await client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError) as caught:
        await client.responses.retrieve(made.id)
    assert caught.value.status_code == 404
    assert caught.value.request_id


async def test_errors_are_the_clients_own_classes(client):
    with pytest.raises(openai.BadRequestError) as caught:
        await client.create(previous_response_id="resp_" + "0" * 48)
    assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")
    with pytest.raises(openai.BadRequestError) as caught:
        await client.events(temperature=3)
    assert (caught.value.code, caught.value.param) == ("decimal_above_max_value", "temperature")
    with pytest.raises(openai.NotFoundError):
        await client.create(conversation="conv_" + "0" * 48)
    with pytest.raises(openai.BadRequestError):
        await client.responses.cancel((await client.create()).id)


async def test_what_passes_through_is_the_upstreams_own(client):
    sdk = client.sdk
    models = [model async for model in sdk.models.list()] if client.is_async else list(sdk.models.list())
    assert [model.id for model in models] == ["demo", "demo-slow"]
