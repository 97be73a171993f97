"""Tools and ``tool_choice``: what goes upstream, what may come back, what is left out or refused (wire §6.6, §6.7)."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import wire
from proxy.errors import InvalidRequest
from proxy.translate.dialects import Dialect
from proxy.translate.tool_names import Origin, chat_name
from proxy.translate.tools import ToolPlan, echo, plan

X = {"role": "user", "content": "x"}
EMPTY = {"type": "object", "properties": {}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


def planned(tools, choice=None, *, given=(), before=(), **dialect):
    """The plan for tools and choice as clients write them; ``given``, ``before``: lists of input and history."""
    more = [[{"type": "additional_tools", "tools": tools} for tools in lists] for lists in (before, given)]
    earlier, now = [wire.create_response({"model": "m", "input": [*items, X]})["input"] for items in more]
    body = {"model": "m", "input": now, "tools": tools, "tool_choice": choice}
    return plan(wire.create_response(body), [*earlier, *now], Dialect(**dialect))


def refusal(tools, choice=None, **rest):
    with pytest.raises(InvalidRequest) as caught:
        planned(tools, choice, **rest)
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
REFUSED = ["file_search", "code_interpreter", "computer", "computer_use_preview"]
REFUSED += ["programmatic_tool_calling", "something_new"]


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


@pytest.mark.parametrize("strict_tools", [True, False])
def test_strict_goes_only_where_it_is_taken(strict_tools):
    (sent,) = planned([function("f", strict=True)], strict_tools=strict_tools).tools
    assert sent["function"].get("strict") == (True if strict_tools else None)


# -- custom tools


GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": "start: WORD"}
CUSTOM = {"type": "custom", "name": "c"}


def text_function(name, about="Free-form text.", **rest):
    """The function that stands for a custom tool."""
    input_ = {"type": "string", "description": about}
    parameters = {
        "type": "object",
        "properties": {"input": input_},
        "required": ["input"],
        "additionalProperties": False,
    }
    return chat(name, **rest, parameters=parameters)


FOLLOWS = "Text that follows the lark grammar in the description of this tool."
MUST = "The input must follow this lark grammar:\nstart: WORD"


@pytest.mark.parametrize(
    ("tool", "emulated", "native"),
    [
        (CUSTOM, text_function("c"), {"name": "c"}),
        (
            {**CUSTOM, "description": "d", "format": {"type": "text"}, "defer_loading": True},
            text_function("c", description="d"),
            {"name": "c", "description": "d", "format": {"type": "text"}},
        ),
        (
            {**CUSTOM, "description": "d", "format": GRAMMAR},
            text_function("c", FOLLOWS, description=f"d\n\n{MUST}"),
            {
                "name": "c",
                "description": "d",
                "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: WORD"}},
            },
        ),
        (
            {**CUSTOM, "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: WORD"}}},
            text_function("c", FOLLOWS, description=MUST),
            {"name": "c", "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: WORD"}}},
        ),
    ],
)
def test_a_custom_tool_goes_as_it_is_where_it_is_taken_and_as_a_function_with_one_text_elsewhere(
    tool, emulated, native
):
    origins = {"c": Origin("custom_tool_call", "c")}
    assert planned([F, tool]) == ToolPlan([chat("f"), emulated], origins=origins)
    assert planned([F, tool], custom_tools=True) == ToolPlan(
        [chat("f"), {"type": "custom", "custom": native}], origins=origins
    )


def test_a_chosen_custom_tool_is_named_as_it_is_sent():
    choice = {"type": "custom", "name": "c"}
    assert planned([CUSTOM], choice).choice == named("c")
    assert planned([CUSTOM], choice, custom_tools=True).choice == {"type": "custom", "custom": {"name": "c"}}
    assert refusal([CUSTOM], {"type": "function", "name": "c"})[1] == "tool_choice"


@pytest.mark.parametrize("given", ["web_search", "web_search_preview", "web_search_preview_2025_03_11"])
def test_a_hosted_tool_is_the_same_by_all_its_versions_names(given):
    web = {"type": "web_search"}
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": given}, {"type": "function", "name": "f"}]}
    assert planned([F, web], allowed).allowed == {"f"}
    assert refusal([F, web], {"type": given})[1:] == ("tools[1].type", "unsupported_parameter")


def test_an_upstream_that_heeds_no_name_gets_only_the_named_tool():
    choice = {"type": "function", "name": "g"}
    assert planned([F, G], choice) == ToolPlan([chat("f"), chat("g")], named("g"))
    assert planned([F, G], choice, named_tools=False) == ToolPlan([chat("g")], named("g"))


# -- namespaces


def space(name, *tools, **rest):
    return {"type": "namespace", "name": name, "tools": list(tools), **rest}


def test_a_namespace_is_flattened_and_its_calls_know_where_they_are_from():
    result = planned([F, space("mcp__wx", F, CUSTOM), space("other", F)])
    assert result.tools == [chat("f"), chat("mcp__wx__f"), text_function("mcp__wx__c"), chat("other__f")]
    assert result.origins == {
        "mcp__wx__f": Origin("function_call", "f", "mcp__wx"),
        "mcp__wx.f": Origin("function_call", "f", "mcp__wx"),
        "mcp__wx__c": Origin("custom_tool_call", "c", "mcp__wx"),
        "mcp__wx.c": Origin("custom_tool_call", "c", "mcp__wx"),
        "c": Origin("custom_tool_call", "c", "mcp__wx"),
        "other__f": Origin("function_call", "f", "other"),
        "other.f": Origin("function_call", "f", "other"),
    }


def test_the_first_tool_of_a_namespace_says_what_all_are_for():
    described = space("n", F, {**G, "description": "d"}, description="About n.")
    first, second = planned([described]).tools
    assert first["function"]["description"] == "About all tools named n__…: About n."
    assert second["function"]["description"] == "d"
    (both,) = planned([space("n", {**G, "description": "d"}, description="About n.")]).tools
    assert both["function"]["description"] == "d\n\nAbout all tools named n__…: About n."


@pytest.mark.parametrize(
    ("space", "name"),
    [("n" * 60, "abc"), ("n", "f" * 128), ("with.dots", "f"), ("mcp wx", "get"), ("ü", "f"), ("\ud83d", "f")],
)
def test_a_name_that_is_too_long_or_illegal_becomes_a_legal_one_that_is_always_the_same(space, name):
    told = chat_name(name, space)
    assert re.fullmatch("[A-Za-z0-9_-]{1,64}", told)
    assert told == chat_name(name, space)
    assert len({told, chat_name(name + "x", space), chat_name(name, space + "x"), chat_name(name, "x" + space)}) == 4


def test_a_name_that_fits_is_not_touched():
    assert chat_name("f" * 61, "n") == "n__" + "f" * 61
    assert chat_name("f" * 62, "n") != "n__" + "f" * 62
    assert chat_name("ü" * 99, None) == "ü" * 99


@pytest.mark.parametrize(
    ("tools", "place"),
    [
        ([function("n__f"), space("n", F)], "tools[1].tools[0].name"),
        ([space("n", F), space("n", G, F)], "tools[1].tools[1].name"),
        ([space("a__b", F), space("a", function("b__f"))], "tools[1].tools[0].name"),
        ([{"type": "shell"}, function("shell")], "tools[1].name"),
        ([{"type": "apply_patch"}, {"type": "apply_patch"}], "tools[1]"),
    ],
)
def test_two_tools_under_one_name_are_refused(tools, place):
    message, param, code = refusal(tools)
    assert (param, code) == (place, "invalid_value")
    assert "another tool comes out under the name" in message


def test_a_tool_of_a_later_list_may_not_take_the_name_of_another_either():
    assert refusal([space("n", F)], before=[[function("n__f")]])[1] == "tools[0].tools[0].name"


def test_what_a_namespace_cannot_hold_is_refused_by_its_place():
    assert refusal([space("n", {"type": "shell"})])[1] == "tools[0].tools[0].type"
    assert refusal([F, space("n", {"type": "file_search"})])[1] == "tools[1].tools[0].type"
    assert planned([space("n", F, {"type": "web_search"})]).dropped == ["web_search"]


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ({"type": "function", "name": "f", "namespace": "n"}, "n__f"),
        ({"type": "function", "name": "n__f"}, "n__f"),
        ({"type": "function", "name": "g"}, "n__g"),
        ({"type": "function", "name": "f"}, "f"),
        ({"type": "custom", "name": "c"}, "n__c"),
        ({"type": "function", "name": "h"}, None),
        ({"type": "function", "name": "g", "namespace": "m"}, None),
    ],
)
def test_a_tool_in_a_namespace_can_be_chosen(choice, sent):
    """A bare name is enough where only one tool has it and none outside of namespaces."""
    tools = [F, space("n", F, G, CUSTOM, function("h")), space("m", function("h"))]
    if sent is None:
        assert refusal(tools, choice)[1] == "tool_choice"
    else:
        assert planned(tools, choice).choice == named(sent)


def test_allowed_tools_may_name_a_namespace_or_one_of_its_tools():
    tools = [F, space("n", F, G, CUSTOM)]

    def allowed(*names, **dialect):
        result = planned(tools, {"type": "allowed_tools", "mode": "required", "tools": [*names]}, **dialect)
        return result.allowed, result.choice

    own, others = {"n__f", "n__g", "n__c"}, {"n.f", "n.g", "n.c", "g", "c"}
    assert allowed({"type": "namespace", "name": "n"}) == (own | others, "required")
    assert allowed({**F, "namespace": "n"}) == ({"n__f", "n.f"}, named("n__f"))
    native = {"mode": "required", "tools": [{"type": "custom", "custom": {"name": "n__c"}}, named("f")]}
    sent = allowed(CUSTOM, F, openai_like=True, custom_tools=True)
    assert sent == ({"n__c", "n.c", "c", "f"}, {"type": "allowed_tools", "allowed_tools": native})


# -- tools that clients run


@pytest.mark.parametrize("type_", ["local_shell", "shell", "apply_patch"])
def test_a_tool_that_the_client_runs_is_declared_as_a_function(type_):
    result = planned([{"type": type_}], {"type": type_})
    (sent,) = result.tools
    assert sent["function"]["name"] == type_
    assert sent["function"]["description"]
    schema = sent["function"]["parameters"]
    assert schema["additionalProperties"] is False
    assert schema["properties"].keys() >= set(schema["required"])
    assert result.choice == named(type_)
    assert result.origins == {type_: Origin(f"{type_}_call", type_)}
    assert planned([F, {"type": type_}], {"type": "allowed_tools", "mode": "auto", "tools": [{"type": type_}]}).allowed


def test_a_shell_runs_with_the_client_only():
    """A container is one of the server's own."""
    local = {"type": "shell", "environment": {"type": "local", "skills": []}}
    assert planned([local]).tools == planned([{"type": "shell"}]).tools
    container = {"type": "shell", "environment": {"type": "container_auto"}}
    message = "Shell environment 'container_auto' is not supported by this server, only 'local' is."
    assert refusal([container]) == (message, "tools[0].environment.type", "unsupported_parameter")
    assert planned([container], unsupported_tools="drop").dropped == ["shell"]


# -- tools that the input brings


def test_tools_in_the_input_or_the_history_are_declared_like_any_other():
    result = planned([], given=[[space("functions", CUSTOM)]], before=[[F, {"type": "web_search"}]])
    assert result.tools == [chat("f"), text_function("functions__c")]
    assert result.dropped == ["web_search"]
    assert planned([], {"type": "function", "name": "f"}, before=[[F]]).choice == named("f")


@pytest.mark.parametrize(
    ("before", "tools", "given", "wins"),
    [
        ([1, 2], None, [], 2),
        ([1], 2, [], 2),
        ([], 1, [2], 2),
        ([1, 2], 3, [4, 5], 5),
    ],
)
def test_the_newest_declaration_of_a_name_wins(before, tools, given, wins):
    def version(number):
        return [function("f", description=str(number))]

    lists = {"given": [*map(version, given)], "before": [*map(version, before)]}
    assert planned(version(tools) if tools else [], **lists).tools == [chat("f", description=str(wins))]


def test_a_newer_declaration_may_be_of_another_type():
    result = planned([{**CUSTOM, "name": "f"}], before=[[F]])
    assert (result.tools, result.origins) == ([text_function("f")], {"f": Origin("custom_tool_call", "f")})


def test_a_tool_in_the_input_is_refused_by_its_place():
    assert refusal([], given=[[F], [G, {"type": "file_search"}]])[1] == "input[1].tools[1].type"
    assert refusal([], before=[[F], [{"type": "file_search"}]])[1] == "input"
    assert refusal([], given=[[F, space("n", F), function("n__f")]])[1] == "input[0].tools[2].name"


def test_types_are_reported_once_each():
    assert planned([{"type": "web_search"}, {"type": "tool_search"}], before=[[{"type": "web_search"}]]).dropped == [
        "web_search",
        "tool_search",
    ]


NAMES = st.sampled_from(["a", "b", "a__b", "b__a", "shell", "x" * 70, "ü"])
DECLARED = st.one_of(
    st.builds(function, NAMES),
    st.builds(lambda name: {**CUSTOM, "name": name}, NAMES),
    st.sampled_from([{"type": "shell"}, {"type": "local_shell"}, {"type": "web_search"}, {"type": "file_search"}]),
)
LISTS = st.lists(DECLARED | st.builds(lambda name, tools: space(name, *tools), NAMES, st.lists(DECLARED, max_size=3)))


@settings(max_examples=60, deadline=None)
@given(LISTS, st.lists(LISTS, max_size=2), st.booleans())
def test_tools_are_refused_or_each_has_a_name_of_its_own(tools, before, custom_tools):
    try:
        result = planned(tools, before=before, custom_tools=custom_tools)
    except InvalidRequest:
        return
    sent = [tool[tool["type"]]["name"] for tool in result.tools or ()]
    assert len(sent) == len(set(sent))
    for name, origin in result.origins.items():
        known = chat_name(origin.name, origin.namespace)
        assert known in sent
        assert name in (known, origin.name, f"{origin.namespace}.{origin.name}", f"{origin.namespace}__{origin.name}")
        assert name == known or (name not in sent and origin.namespace is not None)
        assert len(known) <= 64 or origin.namespace is None
