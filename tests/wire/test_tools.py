"""Tools, tool_choice and text formats of a request (wire §4.2, §6.6, §6.7)."""

import pytest

from proxy import wire
from tests.wire.refusals import refusal


def create(**parameters):
    return wire.create_response({"model": "m", "input": "hi", **parameters})


def refused(**parameters):
    return refusal(wire.create_response, {"model": "m", "input": "hi", **parameters})


SCHEMA = {"$schema": "http://json-schema.org/draft-07/schema#", "properties": {"a": {"default": None}}}


def test_a_function_keeps_its_schema_to_the_letter_and_loses_its_nulls():
    tool = {"type": "function", "name": "f", "description": None, "parameters": SCHEMA, "strict": None, "extra": 1}
    assert create(tools=[tool])["tools"] == [{"type": "function", "name": "f", "parameters": SCHEMA, "extra": 1}]


def test_a_function_written_as_in_chat_completions_comes_out_flat():
    chat = {"type": "function", "function": {"name": "f", "description": None, "parameters": SCHEMA, "strict": True}}
    assert create(tools=[chat])["tools"] == [{"type": "function", "name": "f", "parameters": SCHEMA, "strict": True}]


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "web_search", "external_web_access": False},
        {"type": "tool_search", "execution": "client"},
        {"type": "mcp", "server_label": "x", "server_url": "http://x", "require_approval": "never"},
        {"type": "custom", "name": "apply_patch", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}},
        {"type": "namespace", "name": "mcp__wx", "description": "", "tools": [{"type": "function", "name": "get"}]},
        {"type": "something_of_tomorrow", "x": [1]},
    ],
)
def test_every_type_of_tool_passes_as_it_came(tool):
    assert create(tools=[tool])["tools"] == [tool]


def test_one_name_may_stand_in_several_namespaces():
    tools = [
        {"type": "function", "name": "get"},
        {"type": "namespace", "name": "a", "tools": [{"type": "function", "name": "get"}]},
        {"type": "namespace", "name": "b", "tools": [{"type": "function", "function": {"name": "get"}}]},
    ]
    kept = create(tools=tools)["tools"]
    assert [tool["tools"] for tool in kept[1:]] == [[{"type": "function", "name": "get"}]] * 2


FUNCTION = {"type": "function", "name": "f"}
GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": "start: WORD"}


def custom(**of_grammar):
    return {"type": "custom", "name": "f", "format": GRAMMAR | of_grammar}


def test_a_grammar_written_as_in_chat_completions_comes_out_flat():
    nested = {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: WORD"}}
    assert create(tools=[{"type": "custom", "name": "f", "format": nested}])["tools"] == [custom()]
    assert create(tools=[custom()])["tools"] == [custom()]


TOOL_REFUSALS = [
    (["f"], "invalid_type", "tools[0]"),
    ([{"name": "f"}], "missing_required_parameter", "tools[0].type"),
    ([{"type": 1}], "invalid_type", "tools[0].type"),
    *[
        ([FUNCTION, {"type": type_}], "invalid_value", "tools[1].type")
        for type_ in ("web_search_東京", "web_search\r\nx: y", "web_search\n", "web search", "a,b", "\0", "x" * 65)
    ],
    ([{"type": "namespace", "name": "n", "tools": [{"type": "ü"}]}], "invalid_value", "tools[0].tools[0].type"),
    ([FUNCTION, {"type": "function"}], "missing_required_parameter", "tools[1].name"),
    ([{"type": "function", "name": ""}], "empty_string", "tools[0].name"),
    ([{"type": "function", "name": None, "function": {}}], "missing_required_parameter", "tools[0].function.name"),
    ([{"type": "custom"}], "missing_required_parameter", "tools[0].name"),
    ([{**FUNCTION, "parameters": "{}"}], "invalid_type", "tools[0].parameters"),
    ([{**FUNCTION, "description": 1}], "invalid_type", "tools[0].description"),
    ([{**FUNCTION, "strict": "true"}], "invalid_type", "tools[0].strict"),
    ([FUNCTION, {"type": "web_search"}, FUNCTION], "invalid_value", "tools[2].name"),
    ([FUNCTION, {"type": "custom", "name": "f"}], "invalid_value", "tools[1].name"),
    ([{"type": "custom", "name": "f", "description": 1}], "invalid_type", "tools[0].description"),
    ([{"type": "custom", "name": "f", "format": "text"}], "invalid_type", "tools[0].format"),
    ([{"type": "custom", "name": "f", "format": {}}], "missing_required_parameter", "tools[0].format.type"),
    ([{"type": "custom", "name": "f", "format": {"type": "ebnf"}}], "invalid_value", "tools[0].format.type"),
    ([custom(syntax=None)], "missing_required_parameter", "tools[0].format.syntax"),
    ([custom(syntax="ebnf")], "invalid_value", "tools[0].format.syntax"),
    ([custom(definition="")], "empty_string", "tools[0].format.definition"),
    ([{"type": "code_interpreter", "container": 5}], "invalid_type", "tools[0].container"),
    ([{"type": "code_interpreter", "container": ""}], "empty_string", "tools[0].container"),
    ([{"type": "code_interpreter", "container": {}}], "missing_required_parameter", "tools[0].container.type"),
    ([{"type": "code_interpreter", "container": {"type": "x"}}], "invalid_value", "tools[0].container.type"),
    ([{"type": "file_search", "ranking_options": {"ranker": 5}}], "invalid_type", "tools[0].ranking_options.ranker"),
    ([{"type": "shell", "environment": "local"}], "invalid_type", "tools[0].environment"),
    ([{"type": "shell", "environment": {}}], "missing_required_parameter", "tools[0].environment.type"),
    ([{"type": "namespace", "name": "n"}], "missing_required_parameter", "tools[0].tools"),
    ([{"type": "namespace", "tools": []}], "missing_required_parameter", "tools[0].name"),
    ([{"type": "namespace", "name": "n", "tools": [FUNCTION, FUNCTION]}], "invalid_value", "tools[0].tools[1].name"),
]


@pytest.mark.parametrize(("tools", "code", "param"), TOOL_REFUSALS)
def test_a_tool_that_cannot_be_declared_is_refused_by_its_place(tools, code, param):
    assert refused(tools=tools)[:2] == (code, param)


def test_the_refusal_of_a_type_tells_which_and_what_a_type_may_be():
    message = "Invalid value: 'ü'. Expected 1 to 64 letters, digits and any of '_', '.', '-'."
    assert refused(tools=[{"type": "ü"}])[2] == message
    assert create(tools=[{"type": "x" * 64}, {"type": "vendor.search-2_b"}])["tools"]


def test_the_refusal_of_a_second_tool_of_a_name_tells_the_name():
    assert "'f'" in refused(tools=[FUNCTION, FUNCTION])[2]


def test_namespaces_within_namespaces_are_not_followed_however_deep():
    tool = FUNCTION
    for _ in range(5000):
        tool = {"type": "namespace", "name": "n", "tools": [tool]}
    assert create(tools=[tool])["tools"][0]["name"] == "n"


@pytest.mark.parametrize(
    "choice",
    [
        "none",
        "auto",
        "required",
        {"type": "function", "name": "f"},
        {"type": "custom", "name": "f"},
        {"type": "allowed_tools", "mode": "auto", "tools": [FUNCTION, {"type": "mcp", "server_label": "x"}]},
        {"type": "mcp", "server_label": "x"},
        {"type": "web_search_preview"},
        {"type": "shell"},
        {"type": "local_shell"},
        {"type": "apply_patch"},
        {"type": "function", "name": "f", "namespace": "n"},
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "namespace", "name": "n"}]},
        {"type": "programmatic_tool_calling"},
    ],
)
def test_every_form_of_tool_choice_passes_with_or_without_tools(choice):
    assert create(tool_choice=choice)["tool_choice"] == choice


def test_a_choice_written_as_in_chat_completions_comes_out_flat():
    chat = {"type": "function", "function": {"name": "f"}}
    assert create(tool_choice=chat)["tool_choice"] == FUNCTION
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [chat]}
    assert create(tool_choice=allowed)["tool_choice"] == {**allowed, "tools": [FUNCTION]}


CHOICE_REFUSALS = [
    ("any", "invalid_value", "tool_choice"),
    ({}, "missing_required_parameter", "tool_choice.type"),
    ({"type": "any"}, "invalid_value", "tool_choice.type"),
    ({"type": "function"}, "missing_required_parameter", "tool_choice.name"),
    ({"type": "function", "function": {}}, "missing_required_parameter", "tool_choice.function.name"),
    ({"type": "mcp"}, "missing_required_parameter", "tool_choice.server_label"),
    ({"type": "allowed_tools", "tools": []}, "missing_required_parameter", "tool_choice.mode"),
    ({"type": "allowed_tools", "mode": "none", "tools": []}, "invalid_value", "tool_choice.mode"),
    ({"type": "allowed_tools", "mode": "auto"}, "missing_required_parameter", "tool_choice.tools"),
    ({"type": "allowed_tools", "mode": "auto", "tools": ["f"]}, "invalid_type", "tool_choice.tools[0]"),
    (
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function"}]},
        "missing_required_parameter",
        "tool_choice.tools[0].name",
    ),
    *[
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": type_}]}, *missing_name)
        for type_ in ("custom", "namespace")
        for missing_name in [("missing_required_parameter", "tool_choice.tools[0].name")]
    ],
    ({**FUNCTION, "namespace": 1}, "invalid_type", "tool_choice.namespace"),
]


@pytest.mark.parametrize(("choice", "code", "param"), CHOICE_REFUSALS)
def test_a_choice_that_means_nothing_is_refused_by_its_place(choice, code, param):
    assert refused(tool_choice=choice)[:2] == (code, param)


def test_a_mode_that_is_none_is_refused_with_those_that_are():
    message = "Invalid value: 'any'. Supported values are: 'none', 'auto', and 'required'."
    assert refused(tool_choice="any")[2] == message


@pytest.mark.parametrize(
    "text",
    [
        {},
        {"verbosity": "low"},
        {"format": {"type": "text"}},
        {"format": {"type": "json_object"}},
        {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True, "description": "d"}},
    ],
)
def test_every_text_format_passes_with_its_schema_whole(text):
    assert create(text=text)["text"] == text


FORMAT = {"type": "json_schema", "name": "n", "schema": {}}
TEXT_REFUSALS = [
    ({"verbosity": 1}, "invalid_type", "text.verbosity"),
    ({"format": "json"}, "invalid_type", "text.format"),
    ({"format": {}}, "missing_required_parameter", "text.format.type"),
    ({"format": {"type": "yaml"}}, "invalid_value", "text.format.type"),
    ({"format": {"type": "json_schema", "schema": {}}}, "missing_required_parameter", "text.format.name"),
    ({"format": {**FORMAT, "schema": None}}, "missing_required_parameter", "text.format.schema"),
    ({"format": {**FORMAT, "schema": []}}, "invalid_type", "text.format.schema"),
    ({"format": {**FORMAT, "strict": "yes"}}, "invalid_type", "text.format.strict"),
]


@pytest.mark.parametrize(("text", "code", "param"), TEXT_REFUSALS)
def test_a_text_format_that_cannot_be_asked_for_is_refused_by_its_place(text, code, param):
    assert refused(text=text)[:2] == (code, param)
