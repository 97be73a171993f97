"""The openai package for Python."""

import json
import time
from importlib.metadata import version

import openai
import pydantic
from feature import (
    ADD_NOTE,
    CUT,
    FOUND_URL,
    LOOK,
    MCP,
    MODEL,
    PERSON,
    PNG,
    REFUSED,
    SEARCH_NOTES,
    SEARCH_WEB,
    SLOW,
    THINK,
    URL,
    WEATHER,
    WEATHER_TWICE,
    drive,
    has,
    refused,
)

client = openai.OpenAI(base_url=URL, api_key="none", max_retries=0)
TOOL = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}
NOTES = {"type": "mcp", "server_label": "notes", "server_url": MCP}


class Person(pydantic.BaseModel):
    name: str
    age: int


def create(text, **options):
    return client.responses.create(model=MODEL, input=text, **options)


def slowly(text, **options):
    """A background response that takes its time."""
    return client.responses.create(model=SLOW, input=text, background=True, **options)


def answers(made):
    """The calls of an answer and what they give, as the next input."""
    calls = [item for item in made.output if item.type == "function_call"]
    told = [{"type": "function_call_output", "call_id": call.call_id, "output": "21 degrees"} for call in calls]
    return [json.loads(call.arguments)["city"] for call in calls], told


def text():
    has(create("Say hello there").output_text, "hello there")


def streaming():
    with client.responses.stream(model=MODEL, input="Count to 5") as stream:
        said = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        has(said, "1 2 3 4 5")
        assert stream.get_final_response().output_text == said


def tools():
    made = create(WEATHER, tools=[TOOL])
    cities, told = answers(made)
    assert cities == ["Paris"], cities
    has(create(told, previous_response_id=made.id, tools=[TOOL]).output_text, "21 degrees")


def parallel_tools():
    with client.responses.stream(model=MODEL, input=WEATHER_TWICE, tools=[TOOL]) as stream:
        made = stream.get_final_response()
    cities, told = answers(made)
    assert cities == ["Paris", "Rome"], cities
    has(create(told, previous_response_id=made.id, tools=[TOOL]).output_text, "21 degrees; 21 degrees")


def structured_output():
    made = client.responses.parse(model=MODEL, input=PERSON, text_format=Person)
    assert made.output_parsed == Person(name="Ada", age=36), made.output_parsed


def previous_response_id():
    first = create("My name is Ada.")
    has(create("What is my name?", previous_response_id=first.id).output_text, "Ada")


def conversation():
    talk = client.conversations.create()
    create("My name is Ada.", conversation=talk.id)
    has(create("What is my name?", conversation={"id": talk.id}).output_text, "Ada")
    assert len(list(client.conversations.items.list(talk.id, limit=1))) == 4


def item_reference():
    first = create("Say seashell")
    history = [{"role": "user", "content": "Say seashell"}, {"type": "item_reference", "id": first.output[0].id}]
    has(create([*history, {"role": "user", "content": "Repeat what you said"}]).output_text, "seashell")


def reasoning():
    made = create(THINK)
    assert [item.type for item in made.output] == ["reasoning", "message"]
    has(made.output[0].content[0].text, "A hard one.")


def images():
    parts = [{"type": "input_image", "image_url": PNG, "detail": "auto"}, {"type": "input_text", "text": LOOK}]
    has(create([{"role": "user", "content": parts}]).output_text, "data:image/png;base64")


async def errors():
    for status, prompt in REFUSED.items():
        await refused(lambda prompt=prompt: create(prompt), status, openai.APIStatusError)
        await refused(lambda prompt=prompt: create(prompt, stream=True), status, openai.APIStatusError)


def broken_stream():
    last = list(create(CUT, stream=True))[-1]
    assert last.type == "response.failed", last
    has(last.response.output[0].content[0].text, "These words came")


def input_tokens():
    short = client.responses.input_tokens.count(model=MODEL, input="One two three.")
    long = client.responses.input_tokens.count(model=MODEL, input="One two three. " * 50)
    assert 0 < short.input_tokens < long.input_tokens


def compact():
    talk = [{"role": "user", "content": "My name is Ada."}, {"role": "assistant", "content": "Noted."}]
    made = client.responses.compact(model=MODEL, input=talk)
    assert made.output[-1].type == "compaction", made.output
    kept = [item.model_dump(exclude_none=True) for item in made.output]
    has(create([*kept, {"role": "user", "content": "What is my name?"}]).output_text, "Ada")


def background():
    made = create("Say later", background=True)
    while made.status in ("queued", "in_progress"):
        time.sleep(0.1)
        made = client.responses.retrieve(made.id)
    has(made.output_text, "later")


def resumed_stream():
    """A stream that is left and gone on with, by events and by the helper, which wants to see it from the start."""
    seen = []
    with slowly("Count to 40", stream=True) as stream:
        for event in stream:
            seen.append(event)
            if event.type == "response.output_text.delta":
                break
    id_, last = seen[0].response.id, seen[-1].sequence_number
    rest = list(client.responses.retrieve(id_, stream=True, starting_after=last))
    assert [event.sequence_number for event in seen + rest] == list(range(len(seen + rest)))
    said = "".join(event.delta for event in seen + rest if event.type == "response.output_text.delta")
    with client.responses.stream(response_id=id_, starting_after=last) as stream:
        assert [event.sequence_number for event in stream] == [event.sequence_number for event in rest]
        assert stream.get_final_response().output_text == said == rest[-1].response.output_text


def cancel():
    made = slowly("Count to 400")
    assert client.responses.cancel(made.id).status == client.responses.cancel(made.id).status == "cancelled"
    assert client.responses.retrieve(made.id).status == "cancelled"


def kinds(made):
    return [item.type for item in made.output]


def mcp():
    tools = [NOTES | {"require_approval": "never"}]
    made = create(SEARCH_NOTES, tools=tools)
    assert kinds(made) == ["mcp_list_tools", "mcp_call", "message"], made.output
    has(made.output_text, "eleven minutes")
    options = {"input": SEARCH_NOTES, "tools": tools, "previous_response_id": made.id}
    with client.responses.stream(model=MODEL, **options) as stream:
        said = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        again = stream.get_final_response()
    assert (kinds(again), again.output_text) == (["mcp_call", "message"], said)
    has(said, "eleven minutes")


def mcp_approval():
    asked = create(ADD_NOTE, tools=[NOTES])
    assert kinds(asked) == ["mcp_list_tools", "mcp_approval_request"], asked.output
    request = asked.output[-1]
    for approve, said in ((False, "did not approve"), (True, "Kept as note")):
        told = {"type": "mcp_approval_response", "approval_request_id": request.id, "approve": approve}
        has(create([told], previous_response_id=asked.id, tools=[NOTES]).output_text, said)


def web_search():
    include = ["web_search_call.action.sources"]
    made = create(SEARCH_WEB, tools=[{"type": "web_search"}], include=include)
    assert kinds(made) == ["web_search_call", "message"], made.output
    assert FOUND_URL in [source.url for source in made.output[0].action.sources]
    (cited,) = made.output[1].content[0].annotations
    assert (cited.type, cited.url) == ("url_citation", FOUND_URL)


def websocket():
    with client.responses.connect() as connection:
        connection.send({"type": "response.create", "model": MODEL, "input": "Say hello there"})
        for event in connection:
            if event.type == "response.completed":
                return has(event.response.output_text, "hello there")


drive(
    "openai-python",
    version("openai"),
    {
        "text": text,
        "streaming": streaming,
        "tools": tools,
        "parallel tools": parallel_tools,
        "structured output": structured_output,
        "previous_response_id": previous_response_id,
        "conversation": conversation,
        "item_reference": item_reference,
        "reasoning": reasoning,
        "images": images,
        "errors": errors,
        "broken stream": broken_stream,
        "input_tokens": input_tokens,
        "compact": compact,
        "background": background,
        "resumed stream": resumed_stream,
        "cancel": cancel,
        "websocket": websocket,
        "mcp": mcp,
        "mcp approval": mcp_approval,
        "web search": web_search,
    },
)
