"""The demo backend: what its rules say, and that it says it as a chat-completions server does."""

import json

import httpx
import jsonschema
import pytest

from proxy import demo
from proxy.translate.client_tools import BY_TYPE

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["city"],
        },
    },
}
ADD = {
    "type": "function",
    "function": {
        "name": "addNumbers",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "number"}},
            "required": ["a", "b"],
        },
    },
}
TOLD = (
    "My name is Ada and I live in Paris, near the river. I am 36 years old; my favourite color is green."
    " Remember that the code word is bluebird."
)


def talk(*turns):
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


def say(*turns, **body):
    return demo.answer({"model": "demo", "messages": talk(*turns), **body})


def client():
    return httpx.AsyncClient(transport=httpx.ASGITransport(demo.app), base_url="http://demo")


async def post(**body):
    async with client() as http:
        return await http.post("/v1/chat/completions", json={"model": "demo", **body})


async def chunks(**body):
    answer = await post(stream=True, **body)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream"
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_the_first_answer_of_a_conversation_says_that_it_is_a_demo():
    assert say("Hello").text == "This is statecar's demo model. You said: Hello"
    assert say("Hello", "Hi.", "Hello").text == "You said: Hello"


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is my name?", "Your name is Ada."),
        ("Do you know what my name is?", "Your name is Ada."),
        ("Where do I live?", "You live in Paris."),
        ("What's my name and where do I live?", "Your name is Ada, and you live in Paris."),
        ("How old am I?", "You are 36 years old."),
        ("What is my favorite color?", "Your favorite color is green."),
        ("what was the code word", "The code word is bluebird."),
        ("What did I ask you to remember?", "You asked me to remember that the code word is bluebird."),
        ("What is my shoe size?", "You have not told me."),
    ],
)
def test_what_was_said_earlier_is_recalled(question, answer):
    assert say(TOLD, "Noted.", question).text == answer


def test_nothing_is_recalled_that_is_not_in_the_messages():
    assert say("Hi", "Hello.", "What is my name?").text == "You have not told me."


def test_the_last_word_counts():
    assert say("My name is Ada.", "ok", "My name is Eve.", "ok", "What is my name?").text == "Your name is Eve."


def test_a_fact_is_noted():
    assert say("My name is Ada.", "ok", "I live in Rome").text == "Noted. You live in Rome."


def test_repeating_needs_the_history():
    assert say("First.", "Second.", "Please repeat what I just said.").text == "First."
    assert say("First.", "Second.", "Repeat what you just said").text == "Second."
    assert say("Repeat what I just said").text.endswith("Nothing was said before.")


def test_content_may_come_in_parts():
    parts = [{"type": "text", "text": "My name is Ada."}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    messages = [{"role": "user", "content": parts}, *talk("What is my name?")]
    assert demo.answer({"model": "demo", "messages": messages}).text.endswith("Your name is Ada.")


def test_thinking_comes_when_asked_for():
    assert say("Think before you answer.").reasoning
    assert not say("Hello").reasoning


@pytest.mark.parametrize(
    ("asked", "calls"),
    [
        ("What is the weather in Paris?", [("get_weather", {"city": "Paris"})]),
        ("Weather in New York?", [("get_weather", {"city": "New York"})]),
        ("Paris weather", [("get_weather", {"city": "Paris"})]),
        ("Weather in Paris and London", [("get_weather", {"city": "Paris"}), ("get_weather", {"city": "London"})]),
        ("Please add 12 and 3.5", [("addNumbers", {"a": 12, "b": 3.5})]),
        ("Use get_weather for “Bad Ems”", [("get_weather", {"city": "Bad Ems"})]),
        ("Hello", []),
    ],
)
def test_a_tool_is_called_when_its_words_occur(asked, calls):
    reply = say(asked, tools=[WEATHER, ADD])
    assert reply.calls == calls
    assert reply.finish == ("tool_calls" if calls else "stop")


def test_tool_choice_and_parallel_tool_calls_are_honoured():
    named = {"type": "function", "function": {"name": "addNumbers"}}
    two = "Weather in Paris and London"
    assert [name for name, _ in say("Hello", tools=[WEATHER, ADD], tool_choice="required").calls] == ["get_weather"]
    assert [name for name, _ in say("Hello", tools=[WEATHER, ADD], tool_choice=named).calls] == ["addNumbers"]
    assert say(two, tools=[WEATHER], tool_choice="none").calls == []
    assert len(say(two, tools=[WEATHER], parallel_tool_calls=False).calls) == 1


@pytest.mark.parametrize("tool", BY_TYPE.values(), ids=BY_TYPE)
def test_a_call_of_a_tool_that_clients_run_is_one_they_can_run(tool):
    offered = [{"type": "function", "function": tool.declaration}]
    ((_, arguments),) = say("Hello", tools=offered, tool_choice="required").calls
    assert tool.read(json.dumps(arguments)) != tool.empty


def test_tool_results_become_the_answer():
    calls = [{"id": f"c{i}", "type": "function", "function": {"name": "f", "arguments": "{}"}} for i in "12"]
    messages = [
        *talk("Weather in Paris and London"),
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "sun"},
        {"role": "tool", "tool_call_id": "c2", "content": "rain"},
    ]
    reply = demo.answer({"model": "demo", "messages": messages, "tools": [WEATHER], "tool_choice": "required"})
    assert (reply.text, reply.calls) == ("The tool answered: sun; rain", [])


def test_a_tool_of_a_server_is_called_by_its_own_name_and_not_its_servers():
    tools = [{"type": "function", "function": {"name": f"notes__{name}"}} for name in ("search_all", "write")]
    assert [name for name, _ in say("Search the notes", tools=tools).calls] == ["notes__search_all"]
    assert say("What notes are there?", tools=tools).calls == []


def test_what_a_search_found_is_cited():
    found = "[1] Ovens\nhttps://ovens.example/a\nThey get hot.\n\n[2] A title alone\nhttps://ovens.example/b"
    called = {"role": "assistant", "tool_calls": [{"id": "c"}]}
    messages = [*talk("Hi", "Hello.", "Search"), called, {"role": "tool", "tool_call_id": "c", "content": found}]
    assert demo.answer({"model": "demo", "messages": messages}).text == "They get hot. [1] A title alone [2]"


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "maximum": 30},
        "mood": {"enum": ["sad", "happy"]},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 2},
        "home": {"$ref": "#/$defs/Home"},
        "sure": {"type": "boolean"},
        "kind": {"const": "person"},
        "none": {"type": "null"},
        "level": {"type": ["null", "number"], "minimum": 40},
    },
    "required": ["name", "age", "mood", "tags", "home", "sure", "kind", "none", "level"],
    "additionalProperties": False,
    "$defs": {"Home": {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"city": {"type": "string"}}}]}},
}


@pytest.mark.parametrize("asked", ["My name is Ada and I am 36 years old. I am happy.", "Make one up", "7 Dwarfs 8 9"])
def test_structured_output_fits_its_schema(asked):
    format_ = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
    value = json.loads(say(asked, response_format=format_).text)
    jsonschema.validate(value, SCHEMA)
    if "Ada" in asked:
        assert (value["name"], value["age"], value["mood"]) == ("Ada", 30, "happy")


def test_json_mode_gives_an_object():
    assert json.loads(say("Hello", response_format={"type": "json_object"}).text) == {"answer": "You said: Hello"}


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_token_limit_ends_the_answer(name):
    reply = say("Hi", "Hi", "Count to 100", **{name: 3})
    assert (reply.text.split(), reply.finish) == (["1", "2", "3"], "length")
    thinking = say("Hi", "Hi", "Think, then count to 100", **{name: 3})
    assert (len(thinking.reasoning.split()), thinking.text, thinking.finish) == (3, "", "length")


@pytest.mark.parametrize("stop", [" 4", [" 6", " 4"]])
def test_a_stop_string_ends_the_answer(stop):
    reply = say("Hi", "Hi", "Count to 9", stop=stop)
    assert (reply.text, reply.finish) == ("1 2 3", "stop")


async def test_a_stream_says_the_same_as_the_plain_answer():
    body = {"messages": talk("Think: my name is Ada.")}
    plain = (await post(**body)).json()
    message, usage = plain["choices"][0]["message"], plain["usage"]
    *stream, finish, last = await chunks(**body, stream_options={"include_usage": True})
    deltas = [chunk["choices"][0]["delta"] for chunk in stream]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(d.get("content", "") for d in deltas) == message["content"]
    assert "".join(d.get("reasoning_content", "") for d in deltas) == message["reasoning_content"]
    assert len(deltas) > 10
    assert finish["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    assert (last["choices"], last["usage"]) == ([], usage)
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens"] == 5
    assert usage["completion_tokens_details"]["reasoning_tokens"] > 0
    assert {chunk["object"] for chunk in stream} == {"chat.completion.chunk"}
    assert plain["object"] == "chat.completion"


async def test_a_stream_without_include_usage_has_none():
    assert all("usage" not in chunk for chunk in await chunks(messages=talk("Hello")))


async def test_streamed_calls_are_put_together_by_index():
    stream = await chunks(messages=talk("Weather in Paris and London"), tools=[WEATHER])
    entries = [entry for chunk in stream for entry in chunk["choices"][0]["delta"].get("tool_calls", ())]
    for index, city in enumerate(["Paris", "London"]):
        first, *rest = [entry for entry in entries if entry["index"] == index]
        assert first["id"].startswith("call_")
        assert first["function"] == {"name": "get_weather", "arguments": ""}
        assert json.loads("".join(entry["function"]["arguments"] for entry in rest)) == {"city": city}
    assert stream[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_plain_calls_have_distinct_ids_and_no_content():
    answer = (await post(messages=talk("Weather in Paris and London"), tools=[WEATHER])).json()
    message = answer["choices"][0]["message"]
    assert message["content"] is None
    assert len({call["id"] for call in message["tool_calls"]}) == 2


async def test_a_long_count_streams_every_number():
    stream = await chunks(messages=talk("Hi", "Hi", "Count to 2000"))
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in stream)
    assert text.split() == [str(n + 1) for n in range(2000)]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_caller_that_leaves_ends_the_work(stream):
    body = {"model": demo.SLOW, "messages": talk("Count to 100000"), "stream": stream}
    incoming = iter([{"type": "http.request", "body": json.dumps(body).encode()}, {"type": "http.disconnect"}])
    sent = []

    async def receive():
        return next(incoming)

    async def send(message):
        sent.append(message)

    await demo.app({"type": "http", "method": "POST", "path": "/v1/chat/completions"}, receive, send)
    assert len(sent) < 5


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": talk("Hi"), "model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [{"role": "nobody", "content": "Hi"}]}, "messages[0].role"),
        ({"messages": ["Hi"]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "tool_call_id": "c1", "content": "x"}]}, "messages[0].tool_call_id"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "c1"}]}, {"role": "user", "content": "Hi"}]},
            "messages[1].role",
        ),
        (
            {"messages": talk("Hi"), "tools": [ADD], "tool_choice": {"type": "function", "function": {"name": "no"}}},
            "tool_choice",
        ),
        ({"messages": talk("Hi"), "tools": ["x"]}, None),
        ({"messages": talk("Hi"), "response_format": {"type": "json_schema"}}, None),
    ],
)
async def test_a_bad_body_is_refused_as_a_backend_would(body, param):
    answer = await post(**body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert error["message"]


async def test_what_is_no_json_is_refused():
    async with client() as http:
        for content in (b"{", b"\xff", b"[]", b""):
            assert (await http.post("/v1/chat/completions", content=content)).status_code == 400


async def test_the_models_are_listed_and_nothing_else_is_served():
    async with client() as http:
        listed = (await http.get("/v1/models")).json()
        assert [model["id"] for model in listed["data"]] == ["demo", "demo-slow"]
        assert (await http.get("/v1/responses")).status_code == 404
        assert (await http.get("/v1/chat/completions")).status_code == 404
