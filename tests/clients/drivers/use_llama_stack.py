"""llama-stack-client, which puts its own prefix before the paths."""

import json
from importlib.metadata import version

import llama_stack_client
from feature import CUT, LOOK, MODEL, PERSON, PNG, REFUSED, URL, WEATHER, WEATHER_TWICE, drive, has, refused
from llama_stack_client import LlamaStackClient

client = LlamaStackClient(base_url=URL.removesuffix("/v1"), max_retries=0)
TOOL = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}


def create(asked, **options):
    return client.responses.create(model=MODEL, input=asked, **options)


def said(made):
    return made.output[-1].content[0].text


def answers(made):
    calls = [item for item in made.output if item.type == "function_call"]
    told = [{"type": "function_call_output", "call_id": call.call_id, "output": "21 degrees"} for call in calls]
    return [json.loads(call.arguments)["city"] for call in calls], told


def text():
    has(said(create("Say hello there")), "hello there")


def streaming():
    events = list(create("Count to 5", stream=True))
    has("".join(event.delta for event in events if event.type == "response.output_text.delta"), "1 2 3 4 5")
    assert events[-1].type == "response.completed"


def tools():
    made = create(WEATHER, tools=[TOOL])
    cities, told = answers(made)
    assert cities == ["Paris"], cities
    has(said(create(told, previous_response_id=made.id, tools=[TOOL])), "21 degrees")


def parallel_tools():
    made = create(WEATHER_TWICE, tools=[TOOL])
    cities, told = answers(made)
    assert cities == ["Paris", "Rome"], cities
    has(said(create(told, previous_response_id=made.id, tools=[TOOL])), "21 degrees; 21 degrees")


def structured_output():
    made = create(PERSON, text={"format": {"type": "json_schema", "name": "person", "schema": SCHEMA}})
    assert json.loads(said(made)) == {"name": "Ada", "age": 36}, made


def previous_response_id():
    first = create("My name is Ada.")
    again = create("What is my name?", previous_response_id=first.id)
    has(said(again), "Ada")
    assert client.responses.retrieve(again.id).id == again.id
    assert len(client.responses.input_items.list(again.id).data) == 3
    assert client.responses.list(limit=1).data[0].id == again.id


def images():
    parts = [{"type": "input_image", "image_url": PNG, "detail": "auto"}, {"type": "input_text", "text": LOOK}]
    has(said(create([{"role": "user", "content": parts}])), "data:image/png;base64")


async def errors():
    for status, prompt in REFUSED.items():
        await refused(lambda prompt=prompt: create(prompt), status, llama_stack_client.APIStatusError)
        await refused(lambda prompt=prompt: create(prompt, stream=True), status, llama_stack_client.APIStatusError)


def broken_stream():
    *_, last = create(CUT, stream=True)
    assert last.type == "response.failed", last


drive(
    "llama-stack-client",
    version("llama-stack-client"),
    {
        "text": text,
        "streaming": streaming,
        "tools": tools,
        "parallel tools": parallel_tools,
        "structured output": structured_output,
        "previous_response_id": previous_response_id,
        "images": images,
        "errors": errors,
        "broken stream": broken_stream,
    },
)
