"""A request becomes a chat body: every parameter of wire §4.1, and nothing that was not given (§4.3, §4.4)."""

from dataclasses import replace

import pytest

from proxy import wire
from proxy.settings import Settings
from proxy.translate.dialects import Dialect, for_kind
from proxy.translate.request import can_stream, to_chat
from proxy.translate.tools import plan

LOCAL = for_kind("generic", Settings(upstream="http://localhost:8000/v1"))
OPENAI = for_kind("openai", Settings(upstream="https://api.openai.com/v1"))
BARE = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": False}
TOOL = {"type": "function", "name": "f"}
SENT_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
LOGPROBS = "message.output_text.logprobs"


def chat(dialect=LOCAL, *, stream=False, **fields):
    """The chat body of a request as clients write it, without what every body has."""
    request = wire.create_response({"model": "m", "input": "Hi", **fields})
    body = to_chat(request, request["input"], plan(request, request["input"], dialect), dialect, stream=stream)
    return {key: value for key, value in body.items() if key not in BARE or value != BARE[key]}


def test_a_bare_request_is_a_bare_body():
    """Local servers have defaults of their own, which an explicit one of ours would override."""
    request = wire.create_response({"model": "m", "input": "Hi"})
    assert to_chat(request, request["input"], plan(request, request["input"], LOCAL), LOCAL, stream=False) == BARE


@pytest.mark.parametrize("dialect", [LOCAL, OPENAI])
def test_usage_is_asked_for_in_streams_only(dialect):
    assert chat(dialect, stream=True) == {"stream": True, "stream_options": {"include_usage": True}}
    assert chat(dialect) == {}


def test_a_dialect_may_know_no_stream_options():
    assert chat(Dialect(stream_options=False), stream=True) == {"stream": True}


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"instructions": "I"}, {"messages": [{"role": "system", "content": "I"}, *BARE["messages"]]}),
        ({"max_output_tokens": 5}, {"max_tokens": 5}),
        ({"temperature": 0}, {"temperature": 0}),
        ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
        ({"presence_penalty": 0.0, "frequency_penalty": -1}, {"presence_penalty": 0.0, "frequency_penalty": -1}),
        ({"user": "u"}, {"user": "u"}),
        ({"top_logprobs": 0}, {}),
        ({"top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
        ({"include": [LOGPROBS]}, {"logprobs": True}),
        ({"include": [LOGPROBS], "top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
        ({"include": ["reasoning.encrypted_content"]}, {}),
        ({"reasoning": {"effort": "low", "summary": "auto"}}, {"reasoning_effort": "low"}),
        ({"reasoning": {"summary": "auto"}}, {}),
        ({"text": {"verbosity": "low"}}, {"verbosity": "low"}),
        ({"text": {"format": {"type": "text"}}}, {}),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {}}}},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}},
        ),
        (
            {
                "text": {
                    "format": {
                        "type": "json_schema",
                        "name": "n",
                        "schema": {"type": "object"},
                        "strict": False,
                        "description": "d",
                    }
                }
            },
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": False, "description": "d"},
                }
            },
        ),
        ({"tools": [TOOL]}, {"tools": [SENT_TOOL]}),
        (
            {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False},
            {"tools": [SENT_TOOL], "tool_choice": "required", "parallel_tool_calls": False},
        ),
        ({"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}, {}),
        ({"tools": [TOOL], "tool_choice": "none", "parallel_tool_calls": True}, {}),
        ({"tools": [{"type": "web_search"}], "parallel_tool_calls": True}, {}),
    ],
)
def test_a_parameter_goes_upstream_in_its_chat_form(fields, sent):
    assert chat(**fields) == sent


@pytest.mark.parametrize(
    "fields",
    [
        {"store": False},
        {"background": False},
        {"stream_options": {"include_obfuscation": False}},
        {"metadata": {"a": "b"}},
        {"previous_response_id": "resp_1"},
        {"conversation": "conv_1"},
        {"truncation": "auto"},
        {"max_tool_calls": 3},
        {"include": ["message.input_image.image_url"]},
        {"context_management": [{"type": "compaction"}]},
        {"prompt_cache_options": {"mode": "implicit"}},
        {"moderation": {"model": "x"}, "image": {}, "access_programs": {}, "personality": "p", "generate": True},
        {"client_metadata": {"a": 1}, "anything": "new", "stream_id": "s", "n": 2},
    ],
)
@pytest.mark.parametrize("dialect", [LOCAL, OPENAI], ids=["local", "openai"])
def test_what_means_nothing_to_a_chat_backend_is_never_sent(fields, dialect):
    assert chat(dialect, **fields) == {}


@pytest.mark.parametrize("key", ["service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"])
def test_what_only_openai_knows_goes_only_there(key):
    assert chat(**{key: "x"}) == {}
    assert chat(OPENAI, **{key: "x"}) == {key: "x"}


def test_openais_field_of_the_limit_is_another():
    assert chat(OPENAI, max_output_tokens=5) == {"max_completion_tokens": 5}


@pytest.mark.parametrize("key", sorted(LOCAL.vendor_keys))
def test_vendor_keys_pass_as_they_are(key):
    assert chat(**{key: {"a": [1]}}) == {key: {"a": [1]}}
    assert chat(**{key: None}) == {}
    assert chat(Dialect(), **{key: 1}) == {}


def test_a_vendor_key_never_replaces_what_was_translated():
    dialect = Dialect(vendor_keys=frozenset({"messages", "stream", "max_tokens", "temperature"}))
    assert chat(dialect, messages=[], max_tokens=9, max_output_tokens=5, temperature=1) == {
        "max_tokens": 5,
        "temperature": 1,
    }


def test_the_same_request_gives_the_same_body():
    fields = {
        "tools": [TOOL],
        "top_k": 1,
        "seed": 2,
        "stop": ["x"],
        "min_p": 0.1,
        "temperature": 1,
        "instructions": "I",
    }
    assert chat(**fields) == chat(**fields)


def test_parallel_tool_calls_goes_only_where_it_is_taken():
    request = {"tools": [TOOL], "parallel_tool_calls": False}
    assert "parallel_tool_calls" not in chat(replace(LOCAL, parallel_tool_calls=False), **request)
    assert chat(LOCAL, **request)["parallel_tool_calls"] is False


@pytest.mark.parametrize(
    ("fields", "can"),
    [({}, True), ({"tools": [TOOL]}, True), ({"include": [LOGPROBS]}, True)]
    + [({"tools": [TOOL], "include": [LOGPROBS]}, False), ({"tools": [TOOL], "top_logprobs": 2}, False)]
    + [({"tools": [TOOL], "tool_choice": "none", "top_logprobs": 2}, True)],
)
def test_log_probabilities_beside_tools_are_asked_plainly_of_who_cannot_stream_them(fields, can):
    request = wire.create_response({"model": "m", "input": "Hi", **fields})
    for dialect, expected in ((LOCAL, True), (replace(LOCAL, streamed_tool_logprobs=False), can)):
        assert can_stream(request, plan(request, request["input"], dialect), dialect) is expected
