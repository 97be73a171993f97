"""What statecar gives its callers in front of real backends, feature by feature. The sentences are those that the tiny
model was taught."""

import asyncio
import json

import openai
import pydantic
import pytest

from tests.backends.conftest import whole
from tests.servers import until

pytestmark = [pytest.mark.live]
feature = pytest.mark.feature

HELLO = "Hello! How can I help you today?"
COUNTED = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10."
ANSWER = {
    "type": "object",
    "properties": {"answer": {"type": "string"}, "score": {"type": "integer"}},
    "required": ["answer", "score"],
    "additionalProperties": False,
}


def function(name, **properties):
    """A function tool whose properties are all required."""
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "name": name, "description": "A tool.", "parameters": parameters}


WEATHER = function("get_weather", city={"type": "string"})
TIME = function("get_time", zone={"type": "string", "enum": ["utc", "cet"]})
OSLO = "What is the weather in Oslo?"
PARIS = "What is the weather in Paris?"
NO_PARSER = "--tool-call-parser"
ENDLESS = "Sing without end."
WINDOW = 4096
"""How many tokens the model's context holds."""


def text_of(response):
    """The text of a response's messages."""
    messages = [item for item in response["output"] if item["type"] == "message"]
    return "".join(part["text"] for item in messages for part in item["content"])


def types_of(response):
    return [item["type"] for item in response["output"]]


def calls_of(response):
    """(name, arguments) of a response's function calls."""
    calls = [item for item in response["output"] if item["type"] == "function_call"]
    return [(call["name"], json.loads(call["arguments"])) for call in calls]


def output_of(call, text, kind="function_call_output"):
    return {"type": kind, "call_id": call["call_id"], "output": text}


def message(role, text):
    return {"role": role, "content": text}


async def refused(front, text, *, tools):
    """Whether the backend takes no tools; then its words have reached the caller."""
    if front.kind.tools:
        return False
    for way in front.ways:
        with pytest.raises(openai.BadRequestError, match=NO_PARSER):
            await way(text, tools=tools)
    return True


@pytest.fixture
async def parsing(front, verdict):
    """The same as ``front``; a backend without a tool parser ends the test once it has said so."""
    if await refused(front, PARIS, tools=[WEATHER]):
        verdict("no", "started without a tool parser; its 400 says which flags it wants")
        return None
    return front


@feature("text")
async def test_text_comes_and_is_stored(front):
    made = await front.plain("Say hello.")
    assert text_of(made) == HELLO
    assert whole(await front.sdk.responses.retrieve(made["id"])) == made
    assert text_of(await front.plain("Use some unicode.")) == "Café, naïve, 東京, 🙂 and 👩‍🚀."


@feature("streaming")
async def test_text_is_streamed_as_it_is_written(front):
    events = await front.events("Count to ten.")
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert len(deltas) > 5
    assert "".join(deltas) == COUNTED == text_of(await front.plain("Count to ten."))
    async with front.sdk.responses.stream(**front.fields("Use some unicode.")) as stream:
        final = await stream.get_final_response()
    assert final.output_text == "Café, naïve, 東京, 🙂 and 👩‍🚀."


@feature("tools")
async def test_a_tool_loop_runs_until_the_model_has_what_it_wants(parsing):
    if parsing is None:
        return
    for way in parsing.ways:
        first = await way(PARIS, tools=[WEATHER])
        assert (types_of(first), calls_of(first)) == (["function_call"], [("get_weather", {"city": "Paris"})])
        result = output_of(first["output"][0], "ask again for Tokyo")
        second = await way([result], tools=[WEATHER], previous_response_id=first["id"])
        assert calls_of(second) == [("get_weather", {"city": "Tokyo"})]
        result = output_of(second["output"][0], "sunny, 21 degrees")
        third = await way([result], tools=[WEATHER], previous_response_id=second["id"])
        assert (types_of(third), text_of(third)) == (["message"], "The report is in.")


@feature("parallel tools")
async def test_two_calls_of_one_answer_are_both_answered(parsing):
    if parsing is None:
        return
    for way in parsing.ways:
        first = await way("Weather in Paris and Rome?", tools=[WEATHER])
        assert calls_of(first) == [("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Rome"})]
        assert len({call["call_id"] for call in first["output"]}) == 2
        results = [output_of(call, "rain") for call in first["output"]]
        second = await way(results, tools=[WEATHER], previous_response_id=first["id"])
        assert text_of(second) == "The report is in."


@feature("named tool")
async def test_a_named_tool_is_called(parsing):
    if parsing is None:
        return
    named = {"tools": [WEATHER, TIME], "tool_choice": {"type": "function", "name": "get_time"}}
    for way in parsing.ways:
        made = await way("What is the time in utc?", **named)
        assert (made["status"], types_of(made)) == ("completed", ["function_call"])
        assert made["output"][0]["name"] == "get_time"
    against = await parsing.plain(PARIS, **named, max_output_tokens=64)
    assert [item["name"] for item in against["output"]] == ["get_time"]


@feature("required")
async def test_a_required_call_is_made(parsing):
    if parsing is None:
        return
    for way in parsing.ways:
        made = await way(PARIS, tools=[WEATHER, TIME], tool_choice="required", max_output_tokens=64)
        assert (made["status"], calls_of(made)) == ("completed", [("get_weather", {"city": "Paris"})])


class Answer(pydantic.BaseModel):
    answer: str
    score: int


@feature("json_schema")
async def test_an_answer_fits_its_schema(front):
    parsed = await front.sdk.responses.parse(**front.fields("Answer in JSON.", text_format=Answer))
    assert parsed.output_parsed == Answer(answer="yes", score=7)
    form = {"type": "json_schema", "name": "answer", "schema": ANSWER, "strict": True}
    made = await front.streamed("Answer in JSON.", text={"format": form})
    assert (made["status"], Answer.model_validate_json(text_of(made))) == ("completed", Answer(answer="yes", score=7))


@feature("json_object")
async def test_an_answer_is_json(front):
    for way in front.ways:
        made = await way("Answer in JSON.", text={"format": {"type": "json_object"}}, max_output_tokens=64)
        assert (made["status"], json.loads(text_of(made))) == ("completed", {"answer": "yes", "score": 7})


def thought_of(item):
    assert item["type"] == "reasoning"
    return "".join(part["text"] for part in item.get("content", []) + item["summary"]).strip()


@feature("reasoning")
async def test_a_thought_comes_before_the_answer(front, fronting, verdict):
    asked = "What is two plus two?"
    if not front.kind.thinks:
        assert text_of(await front.plain(asked, think=True)).startswith("<think>")
        verdict("partly", "started without a reasoning parser; --parse-think-tags makes up for it")
    async with fronting(*() if front.kind.thinks else ("--parse-think-tags",)) as reading:
        for way in reading.ways:
            made = await way(asked, think=True)
            assert types_of(made) == ["reasoning", "message"]
            assert thought_of(made["output"][0]) == "Two plus two is four."
            assert text_of(made).strip() == "The answer is 4."
            told = await way(asked, think=True, reasoning={"summary": "auto"})
            assert [part["type"] for part in told["output"][0]["summary"]] == ["summary_text"]
            assert types_of(await way(asked)) == ["message"]


@feature("reasoning replay")
async def test_a_thought_goes_back_to_the_model_with_its_call(parsing):
    if parsing is None:
        return
    first = await parsing.plain(OSLO, think=True, tools=[WEATHER])
    thought, call = first["output"]
    result = output_of(call, "rain")
    second = await parsing.plain([result], think=True, tools=[WEATHER], previous_response_id=first["id"])
    assert text_of(second).strip() == "The report is in."
    given = [message("user", OSLO), thought, call, result]
    by_hand = await parsing.plain(given, think=True, tools=[WEATHER])
    without = await parsing.plain([given[0], call, result], think=True, tools=[WEATHER])
    assert _read(second) == _read(by_hand) > _read(without)


def _read(response):
    return response["usage"]["input_tokens"]


@feature("logprobs")
async def test_log_probabilities_come_with_each_token(front):
    asked = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    for way in front.ways:
        made = await way("Say hello.", **asked)
        (part,) = made["output"][0]["content"]
        written = b"".join(bytes(entry["bytes"]) for entry in part["logprobs"])
        assert written.decode().startswith(HELLO)
        assert all(len(entry["top_logprobs"]) == 2 and entry["logprob"] <= 0 for entry in part["logprobs"])
    assert (await front.plain("Say hello."))["output"][0]["content"][0]["logprobs"] == []


@feature("usage")
async def test_usage_is_the_backends_own(front):
    switch = {"chat_template_kwargs": {"enable_thinking": False}}
    direct = front.real.chat("Count to ten.", **switch).json()["usage"]
    for way in front.ways:
        usage = (await way("Count to ten."))["usage"]
        assert (usage["input_tokens"], usage["output_tokens"]) == (direct["prompt_tokens"], direct["completion_tokens"])


@feature("length")
async def test_an_answer_cut_by_its_limit_is_incomplete(front):
    found = []
    for way in front.ways:
        made = await way("Write a long story.", max_output_tokens=16)
        assert (made["status"], made["incomplete_details"]["reason"]) == ("incomplete", "max_output_tokens")
        assert made["output"][-1]["status"] == "incomplete"
        assert made["usage"]["output_tokens"] == 16
        found.append(text_of(made))
    assert found[0] == found[1] and found[0].startswith("Ada met Bob in Paris")


@feature("stop")
async def test_a_stop_text_ends_the_answer_and_is_cut_off(front):
    for way in front.ways:
        made = await way("Count to ten.", extra_body={"stop": [", 6"]})
        assert (made["status"], text_of(made)) == ("completed", "1, 2, 3, 4, 5")


@feature("errors")
async def test_a_refusal_is_an_http_error_of_the_clients_own_class(front):
    bad = {"format": {"type": "json_schema", "name": "r", "schema": {"type": "nonsense"}}}
    for way in front.ways:
        with pytest.raises(openai.BadRequestError) as caught:
            await way("x", text=bad)
        assert caught.value.type == "invalid_request_error"
        assert caught.value.code is None or isinstance(caught.value.code, str)
        with pytest.raises(openai.BadRequestError) as caught:
            await way("word " * 9000)
        assert (caught.value.type, caught.value.code) == ("invalid_request_error", "context_length_exceeded")


@feature("abort")
async def test_a_caller_who_leaves_frees_the_backend(front):
    for leave in (_leave_a_stream, _leave_a_plain_request):
        for _ in range(5):  # on a busy machine the answer may be over before anybody leaves
            before = await asyncio.to_thread(front.real.written)
            await leave(front)
            await asyncio.to_thread(until, lambda: not front.real.busy())
            if await asyncio.to_thread(front.real.written) - before < WINDOW * 0.9:
                break
        else:
            pytest.fail("every answer was written to its end")


async def _leave_a_stream(front):
    async with await front.sdk.responses.create(**front.fields(ENDLESS), stream=True) as events:
        async for event in events:
            if event.type == "response.output_text.delta":
                break


async def _leave_a_plain_request(front):
    waiting = asyncio.create_task(front.sdk.responses.create(**front.fields(ENDLESS)))
    await asyncio.to_thread(until, lambda: front.real.busy() or waiting.done())
    waiting.cancel()
    await asyncio.wait([waiting])


@feature("previous_response_id")
async def test_a_name_told_in_one_turn_is_known_by_id_in_another(front):
    for way in front.ways:
        assert text_of(await way("What is my name?")) == "You have not told me your name."
        told = await way("My name is Grace.")
        asked = await way("What is my name?", previous_response_id=told["id"])
        assert (text_of(asked), asked["previous_response_id"]) == ("Your name is Grace.", told["id"])
        beside = await way("What is my name?", previous_response_id=told["id"])
        assert text_of(beside) == "Your name is Grace."


@feature("conversation")
async def test_a_name_told_in_a_conversation_is_known_in_it(front):
    for way in front.ways:
        conversation = (await front.sdk.conversations.create()).id
        await way("My name is Hugo.", conversation=conversation)
        asked = await way("What is my name?", conversation=conversation)
        assert (text_of(asked), asked["conversation"]) == ("Your name is Hugo.", {"id": conversation})
        items = await front.sdk.conversations.items.list(conversation, order="asc")
        texts = [item.content[0].text async for item in items]
        assert texts == ["My name is Hugo.", "Nice to meet you, Hugo.", "What is my name?", "Your name is Hugo."]


@feature("truncation auto")
async def test_a_context_too_long_is_cut_at_its_head(front):
    filler = [message(role, "word " * 400) for _ in range(8) for role in ("user", "assistant")]
    talk = [*filler, message("user", "Say hello.")]
    for way in front.ways:
        with pytest.raises(openai.BadRequestError) as caught:
            await way(talk)
        assert caught.value.code == "context_length_exceeded"
        made = await way(talk, truncation="auto", max_output_tokens=16)
        assert (made["truncation"], made["status"] in ("completed", "incomplete")) == ("auto", True)
        assert 0 < _read(made) < WINDOW
        items = await front.sdk.responses.input_items.list(made["id"], limit=100)
        assert len([item async for item in items]) == len(talk)


@feature("input_tokens")
async def test_input_is_counted_as_the_backend_counts_it(front):
    told = await front.plain("My name is Grace.", think=True)
    asked = {"instructions": "Be brief.", "previous_response_id": told["id"]}
    if front.kind.tools:
        asked["tools"] = [WEATHER]
    made = await front.plain("What is my name?", think=True, **asked)
    counted = await front.sdk.responses.input_tokens.count(model="tiny", input="What is my name?", **asked)
    assert (counted.object, counted.input_tokens) == ("response.input_tokens", _read(made))


@feature("custom tool")
async def test_a_custom_tool_takes_any_text(front, verdict):
    tool = {"type": "custom", "name": "get_weather", "description": "Weather in a city."}
    if await refused(front, PARIS, tools=[tool]):
        verdict("no", "started without a tool parser; its 400 says which flags it wants")
        return
    for way in front.ways:
        first = await way(PARIS, tools=[tool])
        (call,) = first["output"]
        assert (first["status"], call["type"], call["name"]) == ("completed", "custom_tool_call", "get_weather")
        assert call["input"]
        result = output_of(call, "sunny", "custom_tool_call_output")
        second = await way([result], tools=[tool], previous_response_id=first["id"])
        assert text_of(second).startswith("The report is in")


@feature("namespace tool")
async def test_a_tool_in_a_namespace_is_called_by_both_its_names(front, verdict):
    tool = {"type": "namespace", "name": "home", "description": "At home.", "tools": [WEATHER]}
    if await refused(front, PARIS, tools=[tool]):
        verdict("no", "started without a tool parser; its 400 says which flags it wants")
        return
    for way in front.ways:
        first = await way(PARIS, tools=[tool], tool_choice="required", max_output_tokens=128)
        (call,) = first["output"]
        assert (first["status"], call["type"]) == ("completed", "function_call")
        assert (call["namespace"], call["name"]) == ("home", "get_weather")
        second = await way([output_of(call, "sunny")], tools=[tool], previous_response_id=first["id"])
        assert text_of(second) == "The report is in."


@feature("compact")
async def test_a_talk_goes_on_from_its_compacted_form(front):
    talk = [message("user", "My name is Grace."), message("assistant", "Nice to meet you, Grace.")]
    compacted = await _compacted(front, talk)
    output = [item.to_dict(warnings=False) for item in compacted.output]
    assert (compacted.object, [item["type"] for item in output]) == ("response.compaction", ["message", "compaction"])
    assert compacted.usage.output_tokens > 0
    asked = message("user", "What is my name?")
    for way in front.ways:
        made = await way([*output, asked], max_output_tokens=16)
        assert _read(made) > _read(await way([talk[0], asked]))  # the summary was read too


async def _compacted(front, talk):
    """A talk in its compacted form. The tiny model was never taught to sum up and may not find an end."""
    for _ in range(8):
        try:
            switch = {"chat_template_kwargs": {"enable_thinking": False}}
            return await front.sdk.responses.compact(model="tiny", input=talk, extra_body=switch)
        except openai.InternalServerError as exc:
            assert (exc.status_code, exc.type) == (502, "server_error")
            assert "summary" in exc.message
    return pytest.fail("no summary was ever whole")
