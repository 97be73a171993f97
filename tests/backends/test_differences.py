"""How real backends differ on the wire, and what a caller of statecar sees of it: the same, unless a test says other.

Each test tells in its docstring what the backends do. What else tells them apart shows in ``test_features.py`` (finish
"length" with the last text, usage, log probabilities, thoughts sent back, a named tool, ``stop``, callers who leave, a
missing parser) or only in recordings (``transformers serve``, which is not started here).
"""

import asyncio
import itertools
import json

import openai
import pytest

from tests import callers
from tests.backends.conftest import whole
from tests.backends.test_features import (
    OSLO,
    PARIS,
    TIME,
    WEATHER,
    calls_of,
    function,
    message,
    output_of,
    text_of,
    thought_of,
    types_of,
)
from tests.live import strict

pytestmark = [pytest.mark.live]

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP6DwABBQECz6AuzQAAAABJRU5ErkJggg=="
)


@pytest.fixture
def thinking(front):
    if not front.kind.thinks:
        pytest.skip("started without a reasoning parser")
    return front


@pytest.fixture
def calling(front):
    if not front.kind.tools:
        pytest.skip("started without a tool parser")
    return front


def only(front, *kinds):
    """Leaves out the backends that do not do what a test is about."""
    if front.real.name not in kinds:
        pytest.skip(f"only {' and '.join(kinds)}")


async def test_the_kind_of_backend_is_found_out(front):
    """By what it answers to questions; vLLM's key guards those under /v1 only."""
    assert (await front.plain("Say hello."))["status"] == "completed"
    kind = "vllm" if front.kind.is_vllm else "llamacpp"
    assert f" is taken for {kind}: " in front.process.stderr


# -- streaming text


async def test_events_have_one_order_however_chunks_are_cut(front):
    """The first delta has content "" or null; one event a chunk or several; finish and usage together or apart."""
    types = [event["type"].removeprefix("response.") for event in await front.events("Say hello.")]
    assert [type_ for type_, _ in itertools.groupby(types)] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]


async def test_a_stream_on_the_wire_ends_with_done_once(front):
    body = front.fields("Say hello.", stream=True)
    answer = await front.http.post("/v1/responses", json=body.pop("extra_body") | body)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert callers.unframed(answer.content)[-1]["type"] == "response.completed"


async def test_ids_and_models_are_those_of_the_response(front):
    """Their ids have four shapes; llama.cpp serves its one model under every name and reports that."""
    made = await front.plain("Say hello.")
    assert made["id"].startswith("resp_") and made["model"] == "tiny"
    if front.kind.is_vllm:
        with pytest.raises(openai.NotFoundError):
            await front.plain("Say hello.", model="other")
    else:
        assert (await front.plain("Say hello.", model="other"))["model"] == "tiny"


async def test_the_backends_extra_keys_stay_behind(front):
    """vLLM adds prompt_token_ids and null keys, llama.cpp timings."""
    for way in front.ways:
        made = await way("Say hello.")
        assert made.keys() == strict.OPEN_RESPONSES.keys()
        assert made["output"][0].keys() == {"id", "type", "status", "role", "content"}


async def test_an_empty_answer_is_one_empty_message(front):
    for way in front.ways:
        made = await way("Say nothing.")
        assert (made["status"], types_of(made), text_of(made)) == ("completed", ["message"], "")


async def test_one_answer_comes_though_two_are_asked_for(front):
    """With n=2, choices come mixed, and usage counts both or one."""
    made = await front.streamed("Say hello.", extra_body={"n": 2})
    assert types_of(made) == ["message"]
    assert made["usage"] == (await front.streamed("Say hello."))["usage"] or not front.kind.is_vllm


# -- reasoning


async def test_the_answer_after_a_thought_is_itself(thinking):
    """vLLM keeps the newlines around a thought, llama.cpp cuts some."""
    for way in thinking.ways:
        made = await way("What is two plus two?", think=True)
        assert (thought_of(made["output"][0]), text_of(made).strip()) == ("Two plus two is four.", "The answer is 4.")


async def test_nothing_stands_between_a_thought_and_a_call(thinking):
    """vLLM streams a lone "\\n\\n" there."""
    for way in thinking.ways:
        made = await way(OSLO, think=True, tools=[WEATHER])
        assert types_of(made) == ["reasoning", "function_call"]
        assert calls_of(made) == [("get_weather", {"city": "Oslo"})]


async def test_an_answer_cut_inside_its_thought_is_incomplete_thought(thinking):
    """Content is null, "" or absent then."""
    for way in thinking.ways:
        made = await way("What is two plus two?", think=True, max_output_tokens=6)
        assert (made["status"], types_of(made)) == ("incomplete", ["reasoning"])
        assert made["output"][0]["status"] == "incomplete"


async def test_a_thought_with_nothing_after_it_is_a_whole_answer(thinking):
    """vLLM sends "\\n\\n" for the answer, llama.cpp nothing."""
    for way in thinking.ways:
        made = await way("Say nothing.", think=True)
        assert (made["status"], types_of(made), text_of(made)) == ("completed", ["reasoning"], "")


async def test_tokens_of_thought_are_counted_where_the_backend_counts_them(thinking):
    """llama.cpp does not."""
    for way in thinking.ways:
        details = (await way("What is two plus two?", think=True))["usage"]["output_tokens_details"]
        assert (details["reasoning_tokens"] > 0) == thinking.kind.is_vllm


async def test_log_probabilities_of_a_thought_break_nothing(thinking):
    """They come on empty deltas, on the role's chunk, on the finish chunk, with an extra id, for half letters."""
    asked = {"include": ["message.output_text.logprobs"], "think": True}
    for way in thinking.ways:
        made = await way("What is two plus two?", **asked)
        entries = made["output"][-1]["content"][0]["logprobs"]
        assert entries and {key for entry in entries for key in entry} == {"token", "logprob", "bytes", "top_logprobs"}


async def test_log_probabilities_beside_tools_are_the_backends_to_give(calling):
    """llama.cpp gives none in a stream that may hold calls, and says so: who wants no stream is asked plainly."""
    asked = {"include": ["message.output_text.logprobs"], "tools": [WEATHER]}
    for way in calling.ways if calling.kind.is_vllm else [calling.plain]:
        assert (await way("Say hello.", **asked))["output"][0]["content"][0]["logprobs"]
    if not calling.kind.is_vllm:
        with pytest.raises(openai.BadRequestError, match="logprobs is not supported with tools"):
            await calling.streamed("Say hello.", **asked)


# -- tool calls


async def test_call_ids_of_any_shape_pair_calls_with_outputs(calling):
    """``chatcmpl-tool-`` and 16 hex at vLLM, 32 letters and digits at llama.cpp."""
    first = await calling.plain(PARIS, tools=[WEATHER])
    (call,) = first["output"]
    assert call["id"].startswith("fc_") and call["call_id"] != call["id"]
    assert text_of(await calling.plain([message("user", PARIS), call, output_of(call, "rain")], tools=[WEATHER])) == (
        "The report is in."
    )


async def test_text_before_a_call_is_a_message_of_its_own(calling):
    for way in calling.ways:
        made = await way("Say something, then get the weather in Rome.", tools=[WEATHER])
        assert types_of(made) == ["message", "function_call"]
        assert text_of(made).strip() == "Let me check."
        assert calls_of(made) == [("get_weather", {"city": "Rome"})]


async def test_one_call_at_a_time_is_the_backends_to_honour(calling):
    """vLLM stops after the first call; llama.cpp ignores the wish, and no work is thrown away."""
    for way in calling.ways:
        made = await way("Weather in Paris and Rome?", tools=[WEATHER], parallel_tool_calls=False)
        assert len(calls_of(made)) == (1 if calling.kind.is_vllm else 2)


@pytest.mark.parametrize("asked", [{"tools": [WEATHER], "tool_choice": "none"}, {}], ids=["none", "no tools"])
async def test_a_call_nobody_may_make_stays_text(front, asked):
    """With ``tool_choice: none`` transformers serve makes the call all the same, so tools are not sent."""
    for way in front.ways:
        made = await way(PARIS, **asked)
        assert types_of(made) == ["message"]
        assert text_of(made).startswith("<tool_call>")


async def test_a_call_cut_by_the_limit_is_never_a_whole_call(calling):
    """Streamed, vLLM sends a name without arguments, llama.cpp ``{``; not streamed, vLLM sends the raw markup."""
    for way in calling.ways:
        made = await way(PARIS, tools=[WEATHER], max_output_tokens=12)
        assert (made["status"], made["incomplete_details"]["reason"]) == ("incomplete", "max_output_tokens")
        assert made["output"][-1]["status"] == "incomplete"


async def test_a_malformed_call_harms_no_later_turn(calling):
    """vLLM passes it on, as text or as a call with broken arguments; llama.cpp's grammar forbids it."""
    only(calling, "vllm")
    for way in calling.ways:
        made = await way("Call a broken tool.", tools=[WEATHER], max_output_tokens=64)
        assert made["status"] in ("completed", "incomplete")
        results = [output_of(item, "rain") for item in made["output"] if item["type"] == "function_call"]
        again = [*results, message("user", "Say hello.")]
        assert (await way(again, tools=[WEATHER], previous_response_id=made["id"]))["status"] == "completed"


async def test_a_call_of_an_unknown_tool_reaches_the_caller_or_fails_plainly(calling):
    """vLLM passes it on; llama.cpp's grammar bends it, and its parser then ends the answer with an error."""
    asked = {"tools": [WEATHER], "max_output_tokens": 96}
    for way in calling.ways:
        if calling.kind.is_vllm:
            assert calls_of(await way("Call an unknown tool.", **asked)) == [("no_such_tool", {"y": "x"})]
        else:
            made = await way("Call an unknown tool.", **asked)
            assert (made["status"], made["error"]["code"]) == ("failed", "server_error")
            assert "does not match the expected" in made["error"]["message"]


async def test_broken_arguments_in_a_history_are_mended(calling):
    """llama.cpp answers 500 to them, now and at every later turn."""
    broken = {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": '{"city": '}
    for way in calling.ways:
        made = await way([message("user", PARIS), broken, output_of(broken, "sunny")], tools=[WEATHER])
        assert made["status"] == "completed"


# -- structured output


async def test_half_a_json_text_is_never_complete(front):
    """vLLM lets a model pad JSON with blanks until its limit."""
    record = function("record", ok={"type": "boolean"}, color={"enum": ["red", "green"]})["parameters"]
    form = {"type": "json_schema", "name": "record", "schema": record, "strict": True}
    for way in front.ways:
        made = await way("Give me a record.", text={"format": form}, max_output_tokens=128)
        if made["status"] == "completed":
            assert json.loads(text_of(made)).keys() == {"ok", "color"}
        else:
            assert made["incomplete_details"]["reason"] == "max_output_tokens"


# -- errors

OURS = [
    ("empty body", b"", None, None),
    ("bad JSON", b'{"model": "tiny", "input": [', None, None),
    ("no object", b"[1, 2]", "invalid_type", None),
    ("no input", {"model": "tiny"}, "missing_required_parameter", "input"),
    ("no model", {"input": "Say hello."}, "missing_required_parameter", "model"),
    ("empty input", {"model": "tiny", "input": []}, "*", "input"),
    (
        "no tokens",
        {"model": "tiny", "input": "x", "max_output_tokens": 0},
        "integer_below_min_value",
        "max_output_tokens",
    ),
    ("cold", {"model": "tiny", "input": "x", "temperature": -1}, "decimal_below_min_value", "temperature"),
    ("hot", {"model": "tiny", "input": "x", "temperature": "hot"}, "invalid_type", "temperature"),
    ("logprobs", {"model": "tiny", "input": "x", "top_logprobs": 500}, "integer_above_max_value", "top_logprobs"),
    ("role", {"model": "tiny", "input": [message("wizard", "x")]}, "invalid_value", "input[0].role"),
    (
        "other tool named",
        {"model": "tiny", "input": "x", "tools": [WEATHER], "tool_choice": {"type": "function", "name": "nope"}},
        "*",
        "tool_choice",
    ),
    ("call without tools", {"model": "tiny", "input": "x", "tool_choice": "required"}, "*", "tool_choice"),
]


@pytest.mark.parametrize(("body", "code", "param"), [row[1:] for row in OURS], ids=[row[0] for row in OURS])
async def test_what_is_wrong_for_all_is_refused_before_the_backend_is_asked(front, body, code, param):
    """Here they answer 400, 422, 500, or serve it."""
    sent = {"content": body} if isinstance(body, bytes) else {"json": body}
    answer = await front.http.post("/v1/responses", **sent)
    status, found, named = callers.refusal(answer)
    assert (status, named) == (400, param)
    assert code in ("*", found)


async def test_no_tools_and_unknown_fields_are_nobodys_business(front):
    """vLLM answers 400 to an empty list of tools, transformers serve 422 to unknown fields."""
    extra = {"not_a_field": 1, "verbosity": "low", "safety_identifier": "s", "prompt_cache_key": "k"}
    for way in front.ways:
        made = await way("Say hello.", tools=[], metadata={"a": "b"}, extra_body=extra)
        assert (made["status"], made["metadata"]) == ("completed", {"a": "b"})


async def test_a_limit_beyond_the_window_is_the_backends_to_judge(front):
    """vLLM refuses it, llama.cpp writes until its window is full."""
    if front.kind.is_vllm:
        for way in front.ways:
            with pytest.raises(openai.BadRequestError, match="max_tokens"):
                await way("Say hello.", max_output_tokens=100000)
    else:
        assert (await front.plain("Say hello.", max_output_tokens=100000))["status"] == "completed"


async def test_an_error_hidden_in_a_stream_is_an_http_error(front):
    """vLLM tells of a bad schema under status 200; llama.cpp answers 400."""
    text = {"format": {"type": "json_schema", "name": "r", "schema": {"type": "nonsense"}}}
    body = front.fields("x", stream=True, text=text)
    answer = await front.http.post("/v1/responses", json=body.pop("extra_body") | body)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/json"
    assert callers.error_of(answer)["type"] == "invalid_request_error"


async def test_an_image_that_no_model_sees_is_refused(front):
    """vLLM answers 400, llama.cpp 500, after which clients would ask again."""
    parts = [{"type": "input_text", "text": "x"}, {"type": "input_image", "image_url": PIXEL}]
    for way in front.ways:
        with pytest.raises(openai.BadRequestError, match="multimodal|image input is not supported"):
            await way([message("user", parts)])


async def test_a_missing_key_is_told_in_the_backends_words(front):
    """vLLM's error is a mere string then."""
    only(front, "vllm-plain")
    wrong = front.sdk.with_options(api_key="wrong")
    with pytest.raises(openai.AuthenticationError, match="Unauthorized"):
        await wrong.responses.create(model="tiny", input="x")


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/nowhere"), ("GET", "/v1/chat/completions")])
async def test_what_is_not_ours_is_answered_by_the_backend(front, method, path):
    """Errors of unknown paths and methods have two shapes."""
    given, found = await _both(front, method, path)
    assert (found.status_code, found.content) == (given.status_code, given.content)
    assert found.status_code in (404, 405)


async def _both(front, method, path):
    """A request's answers from the backend and through statecar."""
    return await asyncio.to_thread(front.real.http.request, method, path), await front.http.request(method, path)


# -- the rest of the wire


@pytest.mark.parametrize("path", ["/v1/models", "/props", "/v1/models/none"])
async def test_other_paths_pass_with_their_headers(front, path):
    """llama.cpp sends a header with an empty value."""
    given, found = await _both(front, "GET", path)
    kept = {"content-type", "access-control-allow-origin", "vary"}
    assert found.status_code == given.status_code
    assert {key: value for key, value in found.headers.items() if key in kept} == {
        key: value for key, value in given.headers.items() if key in kept
    }


async def test_a_kept_connection_that_the_backend_closed_is_noticed(front):
    """Both close one that was idle for 5 s."""
    assert (await front.plain("Say hello."))["status"] == "completed"
    await asyncio.sleep(5.5)
    for _ in range(3):
        assert (await front.plain("Say hello."))["status"] == "completed"


async def test_request_ids_of_callers_never_meet_upstream(front):
    """vLLM makes X-Request-Id its id, so two alike would clash."""
    headers = {"x-request-id": "abc"}
    made = await asyncio.gather(*(front.plain("Count to ten.", extra_headers=headers) for _ in range(4)))
    assert len({response["id"] for response in made}) == 4


# -- their own /v1/responses


async def test_state_is_ours_whatever_the_backends_own_endpoint_does(front):
    """theirs: an id is forgotten, refused or ignored; GET, DELETE, input_items and conversations are 404 or 405."""
    made = await front.plain("My name is Grace.", metadata={"a": "b"})
    assert (made["metadata"], made["store"], made["tool_choice"]) == ({"a": "b"}, True, "auto")
    assert whole(await front.sdk.responses.retrieve(made["id"])) == made
    items = await front.sdk.responses.input_items.list(made["id"])
    assert [item.content[0].text async for item in items] == ["My name is Grace."]
    await front.sdk.responses.delete(made["id"])
    for path in ("", "/input_items"):
        assert (await front.http.get(f"/v1/responses/{made['id']}{path}")).status_code == 404
    conversation = await front.sdk.conversations.create()
    assert (await front.sdk.conversations.delete(conversation.id)).deleted


async def test_what_is_not_stored_is_forgotten_and_says_so(front):
    """vLLM's endpoint needs a switch for any state, llama.cpp's refuses ids, transformers serve ignores them."""
    made = await front.plain("My name is Grace.", store=False)
    assert made["store"] is False
    with pytest.raises(openai.BadRequestError) as caught:
        await front.plain("What is my name?", previous_response_id=made["id"])
    assert caught.value.code == "previous_response_not_found"
    with pytest.raises(openai.NotFoundError):
        await front.sdk.responses.retrieve(made["id"])


async def test_events_have_numbers_and_places(front):
    """llama.cpp's own have neither; transformers serve streams when nobody asked."""
    events = await front.events("Say hello.")
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert all(event["output_index"] == 0 for event in events if "item_id" in event)
    assert (await front.plain("Say hello."))["object"] == "response"


async def test_the_time_is_asked_for_among_several_tools(calling):
    made = await calling.plain("What is the time in utc?", tools=[WEATHER, TIME])
    assert calls_of(made) == [("get_time", {"zone": "utc"})]
