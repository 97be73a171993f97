"""Tools and ``tool_choice``: what goes upstream, what may come back, what is left out or refused (wire §6.6, §6.7)."""

import pytest

from proxy import wire
from proxy.errors import InvalidRequest
from proxy.translate.dialects import Dialect
from proxy.translate.tools import ToolPlan, echo, plan

EMPTY = {"type": "object", "properties": {}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


def planned(tools, choice=None, **dialect):
    """The plan for tools and choice as clients write them."""
    body = {"model": "m", "input": "x", "tools": tools, "tool_choice": choice}
    return plan(wire.create_response(body), Dialect(**dialect))


def refusal(tools, choice=None, **dialect):
    with pytest.raises(InvalidRequest) as caught:
        planned(tools, choice, **dialect)
    return caught.value.message, caught.value.param, caught.value.code


def function(name, **rest):
    return {"type": "function", "name": name, **rest}


def chat(name, **rest):
    return {"type": "function", "function": {"name": name, **({"parameters": EMPTY} | rest)}}


def named(name):
    return {"type": "function", "function": {"name": name}}


F, G = function("f"), function("g")


@pytest.mark.parametrize(
    ("tool", "sent"),
    [
        (F, chat("f")),
        ({**F, "parameters": None, "description": None, "strict": None}, chat("f")),
        (
            {**F, "description": "d", "parameters": SCHEMA, "strict": False},
            chat("f", description="d", parameters=SCHEMA, strict=False),
        ),
        ({**F, "defer_loading": True, "output_schema": {}, "allowed_callers": []}, chat("f")),
        ({"type": "function", "function": {"name": "f", "parameters": SCHEMA}}, chat("f", parameters=SCHEMA)),
    ],
)
def test_a_function_is_nested_and_what_is_absent_stays_absent(tool, sent):
    assert planned([tool]) == ToolPlan([sent])


def test_functions_keep_their_order():
    assert [tool["function"]["name"] for tool in planned([G, F, function("e")]).tools] == ["g", "f", "e"]


DROPPED = ["web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11"]
DROPPED += ["image_generation", "tool_search"]
REFUSED = ["file_search", "code_interpreter", "computer", "computer_use_preview", "mcp", "local_shell", "shell"]
REFUSED += ["apply_patch", "programmatic_tool_calling", "something_new"]


@pytest.mark.parametrize("type_", DROPPED)
def test_tools_that_only_help_are_dropped(type_):
    """Codex sends ``web_search`` with every request: to refuse it would lock Codex out."""
    assert planned([F, {"type": type_}]) == ToolPlan([chat("f")], dropped=[type_])
    assert planned([{"type": type_}]) == ToolPlan(dropped=[type_])
    expected = (f"Tool type '{type_}' is not supported by this server.", "tools[1].type", "unsupported_parameter")
    assert refusal([F, {"type": type_}], unsupported_tools="reject") == expected


@pytest.mark.parametrize("type_", REFUSED)
def test_tools_that_the_answer_hangs_on_are_refused(type_):
    expected = (f"Tool type '{type_}' is not supported by this server.", "tools[1].type", "unsupported_parameter")
    assert refusal([F, {"type": type_}]) == expected
    assert planned([F, {"type": type_}], unsupported_tools="drop") == ToolPlan([chat("f")], dropped=[type_])


def test_custom_and_namespace_tools_are_refused():
    custom, space = (
        {"type": "custom", "name": "c"},
        {"type": "namespace", "name": "n", "description": "d", "tools": [F]},
    )
    assert refusal([custom])[1:] == ("tools[0].type", "unsupported_parameter")
    assert refusal([F, space])[1:] == ("tools[1].type", "unsupported_parameter")


def test_a_tool_that_was_chosen_is_not_dropped_in_silence():
    choice = {"type": "web_search_preview"}
    assert refusal([F, {"type": "web_search_preview"}], choice)[1:] == ("tools[1].type", "unsupported_parameter")
    assert refusal([F], choice)[1] == "tool_choice"


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        (None, None),
        ("auto", "auto"),
        ("required", "required"),
        ({"type": "function", "name": "g"}, named("g")),
        ({"type": "function", "function": {"name": "g"}}, named("g")),
    ],
)
def test_the_choice_in_its_chat_form(choice, sent):
    assert planned([F, G], choice) == ToolPlan([chat("f"), chat("g")], sent)


def test_none_sends_neither_tools_nor_choice():
    """Some servers ignore ``none`` and call a tool all the same."""
    assert planned([F], "none") == ToolPlan()
    assert planned([], "none") == ToolPlan()
    assert planned([F, {"type": "web_search"}], "none") == ToolPlan(dropped=["web_search"])


@pytest.mark.parametrize("tools", [[], [{"type": "web_search"}]])
def test_without_tools_no_choice_is_sent(tools):
    """vLLM and OpenAI refuse a choice without tools."""
    assert planned(tools, "auto").choice is None
    assert refusal(tools, "required")[1] == "tool_choice"
    assert refusal(tools, {"type": "function", "name": "f"})[1] == "tool_choice"


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        ({"type": "function", "name": "h"}, "h"),
        ({"type": "custom", "name": "f"}, "f"),
        ({"type": "mcp", "server_label": "s", "name": "f"}, "f"),
        ({"type": "file_search"}, "file_search"),
        ({"type": "allowed_tools", "mode": "auto", "tools": [F, function("h")]}, "h"),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "image_generation"}]}, "image_generation"),
    ],
)
def test_a_choice_must_be_among_the_tools(choice, name):
    expected = (f"Tool choice '{name}' not found in 'tools' parameter.", "tool_choice", None)
    assert refusal([F, G], choice) == expected


def test_allowed_tools_must_name_one():
    assert refusal([F], {"type": "allowed_tools", "mode": "auto", "tools": []})[1] == "tool_choice.tools"


@pytest.mark.parametrize(
    ("mode", "names", "sent"),
    [
        ("auto", ["g"], "auto"),
        ("required", ["g"], named("g")),
        ("required", ["g", "f"], "required"),
        ("required", ["g", "g"], named("g")),
        ("auto", ["f", "g", "h"], "auto"),
    ],
)
def test_only_allowed_tools_are_sent(mode, names, sent):
    """Wire §7.9; calls outside the set are dropped whatever the upstream does."""
    tools, choice = [F, G, function("h")], {"type": "allowed_tools", "mode": mode, "tools": [*map(function, names)]}
    kept = [chat(name) for name in ("f", "g", "h") if name in names]
    assert planned(tools, choice) == ToolPlan(kept, sent, frozenset(names))


def test_openai_gets_all_tools_and_the_set():
    choice = {"type": "allowed_tools", "mode": "required", "tools": [G]}
    native = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named("g")]}}
    assert planned([F, G], choice, openai_like=True) == ToolPlan([chat("f"), chat("g")], native, frozenset({"g"}))


def test_the_echo_has_every_key_of_a_function_and_leaves_others_alone():
    full = {**F, "description": "d", "parameters": SCHEMA, "strict": True}
    assert echo([F, full, {"type": "web_search", "external_web_access": False}]) == [
        {**F, "description": None, "parameters": None, "strict": None},
        full,
        {"type": "web_search", "external_web_access": False},
    ]
