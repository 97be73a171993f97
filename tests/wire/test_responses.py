"""Bodies of POST /v1/responses: every refusal of wire §2.3 and §2.4 that needs no state, and what is let through."""

import copy

import pytest

from proxy import codec, wire
from tests.wire.refusals import refusal

KEPT = {"type": "message", "status": "completed", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}


def create(**parameters):
    return wire.create_response({"model": "m", "input": "hi", **parameters})


def refused(**parameters):
    return refusal(wire.create_response, {"model": "m", "input": "hi", **parameters})


def test_a_string_becomes_one_user_message_with_one_text_part():
    assert create() == {"model": "m", "input": [KEPT]}


def test_the_body_that_came_is_left_as_it_was():
    body = {
        "model": "m",
        "user": None,
        "conversation": {"id": "conv_1"},
        "text": {"format": None, "verbosity": "low"},
        "tools": [{"type": "function", "function": {"name": "f", "description": None}}],
        "input": [
            {"role": "assistant", "content": [{"type": "text", "text": "a", "prompt_cache_breakpoint": {}}]},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x", "detail": "low"}}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": {"a": 1}, "status": None},
        ],
    }
    before = copy.deepcopy(body)
    wire.create_response(body)
    assert body == before


@pytest.mark.parametrize("body", [None, [], "text", 3, True])
def test_a_body_that_is_no_object_is_refused(body):
    code, param, message = refusal(wire.create_response, body)
    assert (code, param) == ("invalid_type", None)
    assert message.startswith("Invalid type for the request body: expected an object, but got ")


MISSING = [
    ({}, "model"),
    ({"input": "hi"}, "model"),
    ({"model": None, "input": "hi"}, "model"),
    ({"zzz": 1, "stream": "yes"}, "model"),
    ({"model": "m"}, "input"),
    ({"model": "m", "input": None, "temperature": "hot"}, "input"),
]


@pytest.mark.parametrize(("body", "name"), MISSING)
def test_what_is_missing_is_told_before_what_is_wrong(body, name):
    expected = ("missing_required_parameter", name, f"Missing required parameter: '{name}'.")
    assert refusal(wire.create_response, body) == expected


@pytest.mark.parametrize("context", [{"previous_response_id": "resp_1"}, {"conversation": "conv_1"}, {"input": []}])
def test_input_may_be_absent_or_empty_where_something_else_gives_context(context):
    assert wire.create_response({"model": "m", **context})["input"] == []


STRINGS = (
    "model instructions previous_response_id service_tier user safety_identifier prompt_cache_key "
    "prompt_cache_retention stream_id truncation"
).split()
BOOLEANS = "stream background store parallel_tool_calls generate".split()
INTEGERS = "max_output_tokens max_tool_calls top_logprobs".split()
DECIMALS = "temperature top_p presence_penalty frequency_penalty".split()
OBJECTS = "metadata text reasoning prompt_cache_options".split()
ARRAYS = "tools include context_management".split()
EXPECTED = {
    **dict.fromkeys(STRINGS, "a string"),
    **dict.fromkeys(BOOLEANS, "a boolean"),
    **dict.fromkeys(INTEGERS, "an integer"),
    **dict.fromkeys(DECIMALS, "a decimal"),
    **dict.fromkeys(OBJECTS, "an object"),
    **dict.fromkeys(ARRAYS, "an array"),
    "input": "one of a string or array of objects",
    "conversation": "one of a string or object",
    "tool_choice": "one of a string or object",
}
VALUES = {
    "a string": "x",
    "a boolean": True,
    "an integer": 1,
    "a decimal number": 1.5,
    "an object": {},
    "an array": [],
}
ALSO_RIGHT = {"a decimal": ("an integer", "a decimal number")}
WRONG_TYPES = [
    (name, expected, got)
    for name, expected in EXPECTED.items()
    for got in VALUES
    if got not in ALSO_RIGHT.get(expected, ()) and got.split()[-1] not in expected.split()
]


@pytest.mark.parametrize(("name", "expected", "got"), WRONG_TYPES)
def test_every_parameter_of_another_json_type_is_refused_by_name(name, expected, got):
    message = f"Invalid type for '{name}': expected {expected}, but got {got} instead."
    assert refused(**{name: VALUES[got]}) == ("invalid_type", name, message)


@pytest.mark.parametrize("name", sorted(EXPECTED.keys() - {"model", "input"}) + ["prompt", "stream_options"])
def test_null_says_the_same_as_absent_for_every_parameter(name):
    assert create(**{name: None}) == create()


BOUNDS = [
    ("max_output_tokens", 0, "integer_below_min_value", "integer below minimum value. Expected a value >= 1"),
    ("max_tool_calls", 0, "integer_below_min_value", "integer below minimum value. Expected a value >= 1"),
    ("top_logprobs", -1, "integer_below_min_value", "integer below minimum value. Expected a value >= 0"),
    ("top_logprobs", 21, "integer_above_max_value", "integer above maximum value. Expected a value <= 20"),
    ("temperature", -0.1, "decimal_below_min_value", "decimal below minimum value. Expected a value >= 0"),
    ("temperature", 2.1, "decimal_above_max_value", "decimal above maximum value. Expected a value <= 2"),
    ("top_p", -1, "decimal_below_min_value", "decimal below minimum value. Expected a value >= 0"),
    ("top_p", 1.01, "decimal_above_max_value", "decimal above maximum value. Expected a value <= 1"),
]


@pytest.mark.parametrize(("name", "value", "code", "text"), BOUNDS)
def test_a_number_out_of_bounds_is_refused_with_the_bound(name, value, code, text):
    assert refused(**{name: value}) == (code, name, f"Invalid '{name}': {text}, but got {value} instead.")


WITHIN = [
    ("max_output_tokens", (1, 15, 16, 10**12)),
    ("top_logprobs", (0, 20)),
    ("temperature", (0, 0.0, 2)),
    ("top_p", (0, 1.0)),
    ("presence_penalty", (-2, 2.5)),
    ("service_tier", ("auto", "scale", "one of next year")),
    ("truncation", ("auto", "disabled")),
    ("include", ([], ["reasoning.encrypted_content"], ["never.heard.of"])),
    ("instructions", ("", "\ud83d")),
    ("zzz", (1, None, {"any": "thing"})),
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WITHIN for value in values])
def test_a_value_at_its_bounds_or_only_for_the_upstream_to_judge_passes_unchanged(name, value):
    expected = {} if value is None else {name: value}
    assert create(**{name: value}) == {"model": "m", "input": [KEPT], **expected}


LONG_KEY = "k" * 65
VALUE_REFUSALS = [
    (
        {"truncation": "bogus"},
        "invalid_value",
        "truncation",
        "Invalid value: 'bogus'. Supported values are: 'auto' and 'disabled'.",
    ),
    (
        {"metadata": {"k": "v" * 513}},
        "string_above_max_length",
        "metadata.k",
        "Invalid 'metadata.k': string too long. Expected a string with maximum length 512, "
        "but got a string with length 513 instead.",
    ),
    (
        {"metadata": {LONG_KEY: "v"}},
        "property_name_above_max_length",
        f"metadata.{LONG_KEY}",
        "Invalid property name in 'metadata': 'kkk...kkk' is too long. Expected a string with maximum length 64, "
        "but got a string with length 65 instead.",
    ),
    (
        {"metadata": {str(i): "" for i in range(17)}},
        "object_above_max_properties",
        "metadata",
        "Invalid 'metadata': too many properties. Expected an object with at most 16 properties, "
        "but got an object with 17 properties instead.",
    ),
    (
        {"metadata": {"k": 1}},
        "invalid_type",
        "metadata.k",
        "Invalid type for 'metadata.k': expected a string, but got an integer instead.",
    ),
    (
        {"metadata": {"k": None}},
        "invalid_type",
        "metadata.k",
        "Invalid type for 'metadata.k': expected a string, but got null instead.",
    ),
    (
        {"input": "x" * 10_485_761},
        "string_above_max_length",
        "input",
        "Invalid 'input': string too long. Expected a string with maximum length 10485760, "
        "but got a string with length 10485761 instead.",
    ),
    (
        {"previous_response_id": "resp_1", "conversation": "conv_1"},
        "mutually_exclusive_parameters",
        "previous_response_id",
        "Cannot provide both 'previous_response_id' and 'conversation' in the same request.",
    ),
    (
        {"background": True, "store": False},
        "unsupported_parameter",
        "background",
        "Background mode requires 'store' to be true.",
    ),
    (
        {"input": [{"type": "compaction_trigger"}, {"role": "user", "content": "hi"}]},
        "invalid_value",
        "input[0].type",
        "Invalid value: 'compaction_trigger'. An item of this type must be the last of the input.",
    ),
    (
        {"conversation": ""},
        "empty_string",
        "conversation",
        "Invalid 'conversation': empty string. Expected a string with minimum length 1, "
        "but got an empty string instead.",
    ),
    (
        {"conversation": {}},
        "missing_required_parameter",
        "conversation.id",
        "Missing required parameter: 'conversation.id'.",
    ),
    (
        {"include": ["a", 1]},
        "invalid_type",
        "include[1]",
        "Invalid type for 'include[1]': expected a string, but got an integer instead.",
    ),
    (
        {"reasoning": {"effort": 1}},
        "invalid_type",
        "reasoning.effort",
        "Invalid type for 'reasoning.effort': expected a string, but got an integer instead.",
    ),
    (
        {"context_management": [{"type": "compaction", "compact_threshold": 0}]},
        "integer_below_min_value",
        "context_management[0].compact_threshold",
        "Invalid 'context_management[0].compact_threshold': integer below minimum value. "
        "Expected a value >= 1, but got 0 instead.",
    ),
    (
        {"context_management": []},
        "empty_array",
        "context_management",
        "Invalid 'context_management': empty array. Expected an array with minimum length 1, but got an empty array"
        " instead.",
    ),
    (
        {"context_management": [{"type": "compaction"}, {"type": "bogus"}]},
        "invalid_value",
        "context_management[1].type",
        "Invalid value: 'bogus'. Supported values are: 'compaction'.",
    ),
    (
        {"context_management": [{"compact_threshold": 1}]},
        "missing_required_parameter",
        "context_management[0].type",
        "Missing required parameter: 'context_management[0].type'.",
    ),
    (
        {"stream": True, "stream_options": {"include_obfuscation": 1}},
        "invalid_type",
        "stream_options.include_obfuscation",
        "Invalid type for 'stream_options.include_obfuscation': expected a boolean, but got an integer instead.",
    ),
]


@pytest.mark.parametrize(("parameters", "code", "param", "message"), VALUE_REFUSALS, ids=lambda value: str(value)[:40])
def test_what_cannot_be_served_is_refused_in_the_words_of_the_reference(parameters, code, param, message):
    assert refused(**parameters) == (code, param, message)


def test_prompt_templates_are_refused_even_without_a_model():
    code, param, message = refusal(wire.create_response, {"prompt": {"id": "pmpt_1"}})
    assert (code, param) == ("unsupported_parameter", "prompt")
    assert message.startswith("Unsupported parameter: 'prompt' is not supported by this server")


def test_metadata_is_measured_in_characters_not_bytes():
    metadata = {"ü" * 64: "😀" * 512, **{str(i): "" for i in range(15)}}
    assert create(metadata=metadata)["metadata"] == metadata


def test_an_overlong_value_is_not_repeated_whole_in_the_message():
    assert len(refused(truncation="x" * 100_000)[2]) < 300


@pytest.mark.parametrize("given", ["conv_1", {"id": "conv_1"}, {"id": "conv_1", "object": "conversation"}])
def test_a_conversation_may_be_an_id_or_an_object_with_one(given):
    assert create(conversation=given)["conversation"] == "conv_1"


@pytest.mark.parametrize("stream", [{}, {"stream": False}, {"stream": None}])
def test_stream_options_without_a_stream_are_ignored_whatever_they_are(stream):
    assert "stream_options" not in create(stream_options="?", **stream)


def test_background_false_and_null_states_are_no_fault():
    request = create(background=False, store=False, previous_response_id=None, conversation=None)
    assert (request["background"], request["store"]) == (False, False)


def test_nulls_inside_text_and_reasoning_are_left_out():
    request = create(
        text={"format": {"type": "text"}, "verbosity": None}, reasoning={"effort": None, "summary": "auto"}
    )
    assert request["text"] == {"format": {"type": "text"}}
    assert request["reasoning"] == {"summary": "auto"}


def test_a_lone_surrogate_from_the_wire_passes_and_can_be_told():
    body = codec.loads(b'{"model":"m","input":"a\\ud83d","metadata":{"k":"\\udc00"},"truncation":"auto"}')
    request = wire.create_response(body)
    assert request["input"][0]["content"][0]["text"] == "a\ud83d"
    message = refused(truncation="\ud83d")[2]
    assert codec.loads(codec.dumps({"message": message})) == {"message": message}


# -- beside it: compaction and counting


BESIDE = [wire.compact_response, wire.count_input_tokens]


@pytest.mark.parametrize("read", BESIDE)
def test_the_bodies_beside_it_have_the_same_shape(read):
    assert read({"model": "m", "input": "hi", "instructions": None, "zzz": 1}) == {
        "model": "m",
        "input": [KEPT],
        "zzz": 1,
    }
    assert read({"model": "m", "previous_response_id": "resp_1"})["input"] == []


@pytest.mark.parametrize("read", BESIDE)
@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"input": "hi"}, "missing_required_parameter", "model"),
        ({"model": None, "input": "hi"}, "missing_required_parameter", "model"),
        ({"model": 1, "input": "hi"}, "invalid_type", "model"),
        ({"model": "m", "input": 1}, "invalid_type", "input"),
        ({"model": "m", "input": "hi", "instructions": []}, "invalid_type", "instructions"),
        ({"model": "m", "input": "hi", "previous_response_id": 1}, "invalid_type", "previous_response_id"),
        ([], "invalid_type", None),
    ],
)
def test_the_bodies_beside_it_are_checked_alike(read, body, code, param):
    assert refusal(read, body)[:2] == (code, param)


def test_a_compaction_needs_something_to_compact():
    assert refusal(wire.compact_response, {"model": "m"})[:2] == ("missing_required_parameter", "input")


def test_a_compaction_refuses_a_conversation_and_says_what_would_do():
    code, param, message = refusal(wire.compact_response, {"model": "m", "input": "hi", "conversation": "conv_1"})
    assert (code, param) == ("unsupported_parameter", "conversation")
    assert "previous_response_id" in message


def test_two_pasts_cannot_be_counted():
    body = {"model": "m", "previous_response_id": "resp_1", "conversation": "conv_1"}
    assert refusal(wire.count_input_tokens, body)[0] == "mutually_exclusive_parameters"
