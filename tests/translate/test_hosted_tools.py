"""Tools that run here, as functions upstream: MCP servers and bound hosted types (wire §6.6, §6.7)."""

from dataclasses import replace

import pytest

from proxy import wire
from proxy.errors import InvalidRequest
from proxy.translate.dialects import Dialect
from proxy.translate.hosting import NOTHING, Hosting
from proxy.translate.tool_names import Origin
from proxy.translate.tools import echo, plan

X = {"role": "user", "content": "x"}
URL = "https://docs.example/mcp"
DOCS = {"type": "mcp", "server_label": "docs", "server_url": URL, "require_approval": "never"}
OTHER = {"type": "mcp", "server_label": "other", "server_url": URL, "require_approval": "never"}
F = {"type": "function", "name": "f"}
SEARCH = {"name": "search", "description": "Searches", "input_schema": {"type": "object"}, "annotations": None}
READ = {"name": "read", "description": None, "input_schema": None, "annotations": {"readOnlyHint": True}}
WRITE = {"name": "write", "annotations": {"readOnlyHint": "yes"}}
LISTED = {"docs": [SEARCH, READ, WRITE], "other": [SEARCH]}
HERE = Hosting(frozenset({"web_search", "file_search", "code_interpreter"}), LISTED, mcp=True)
ALL = ["docs__search", "docs__read", "docs__write"]


def planned(tools, choice=None, *, hosting=HERE, input_=(), before=(), **dialect):
    body = {"model": "m", "input": [*input_, X], "tools": tools, "tool_choice": choice}
    request = wire.create_response(body)
    return plan(request, [*before, *request["input"]], Dialect(**dialect), hosting)


def names(made):
    return [tool["function"]["name"] for tool in made.tools or ()]


def refusal(*args, **rest):
    with pytest.raises(InvalidRequest) as caught:
        planned(*args, **rest)
    return caught.value.message, caught.value.param, caught.value.code


# -- MCP servers


def test_the_tools_of_a_server_are_functions_named_after_it():
    made = planned([F, DOCS | {"server_description": "The manual"}])
    _, search, read, write = made.tools
    assert names(made) == ["f", *ALL]
    assert search["function"]["description"] == "Searches\n\nAbout all tools named docs__…: The manual"
    assert "description" not in read["function"]
    for tool in (search, read, write):
        assert tool["function"]["parameters"] == {"type": "object", "properties": {}}
    assert made.origins["docs__search"] == Origin("mcp_call", "search", "docs")
    assert made.origins["docs__search"].tool["server_url"] == URL
    assert made.origins["read"] == made.origins["docs.read"] == Origin("mcp_call", "read", "docs")


@pytest.mark.parametrize(
    ("schema", "sent"),
    [
        ({"properties": {"q": {"type": "string"}}}, {"type": "object", "properties": {"q": {"type": "string"}}}),
        ({"type": "string"}, {"type": "object", "properties": {}}),
        ("lies", {"type": "object", "properties": {}}),
        ({"$defs": {"a": {}}, "type": "object"}, {"type": "object", "properties": {}, "$defs": {"a": {}}}),
    ],
)
def test_arguments_are_always_an_object_whatever_the_server_says(schema, sent):
    hosting = Hosting(servers={"docs": [{"name": "a", "input_schema": schema}]}, mcp=True)
    (tool,) = planned([DOCS], hosting=hosting).tools
    assert tool["function"]["parameters"] == sent


def test_a_tool_that_a_server_lists_twice_is_one():
    assert names(planned([DOCS], hosting=Hosting(servers={"docs": [SEARCH, SEARCH]}, mcp=True))) == ["docs__search"]


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (None, ALL),
        ({}, ALL),
        ([], []),
        (["read", "gone"], ["docs__read"]),
        ({"tool_names": ["search"]}, ["docs__search"]),
        ({"read_only": True}, ["docs__read"]),
        ({"read_only": False}, ["docs__search", "docs__write"]),
        ({"tool_names": ["search", "read"], "read_only": True}, ["docs__read"]),
    ],
)
def test_only_allowed_tools_of_a_server_are_offered(given, left):
    assert names(planned([DOCS | {"allowed_tools": given}])) == left


@pytest.mark.parametrize(
    ("given", "asks"),
    [
        (None, ALL),
        ("always", ALL),
        ("never", []),
        ({}, ALL),
        ({"never": {}}, ALL),
        ({"never": {"tool_names": ["search"]}}, ["docs__read", "docs__write"]),
        ({"never": {"read_only": True}}, ["docs__search", "docs__write"]),
        ({"always": {"tool_names": ["write"]}}, ALL),
        (
            {"always": {"tool_names": ["read"]}, "never": {"tool_names": ["search", "read"]}},
            ["docs__read", "docs__write"],
        ),
    ],
)
def test_whatever_is_not_said_to_need_no_approval_needs_it(given, asks):
    made = planned([DOCS | {"require_approval": given}])
    kinds = {name: made.origins[name].item for name in ALL}
    assert kinds == {name: "mcp_approval_request" if name in asks else "mcp_call" for name in ALL}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("docs__find", Origin("mcp_call", "find", "docs")),
        ("docs__", Origin("function_call", "docs__")),
        ("docs_find", Origin("function_call", "docs_find")),
        ("gone__search", Origin("function_call", "gone__search")),
    ],
)
def test_a_tool_that_a_server_does_not_have_is_no_function_of_the_clients(name, meant):
    """So the model is told, and the response does not end with a call that nobody can answer."""
    assert planned([F, DOCS]).origin(name, custom=False) == meant


def test_a_tool_that_needs_approval_needs_it_by_every_name():
    """Also where a name is too long to go upstream, or two tools have one."""
    tools = [{"name": "long" * 20}, {"name": "a.b"}, {"name": "a"}]
    made = planned(
        [DOCS | {"require_approval": "always"}, OTHER | {"require_approval": "always"}],
        hosting=Hosting(servers={"docs": tools, "other": tools}, mcp=True),
    )
    for name in (f"docs__{'long' * 20}", "docs__a.b", "docs.a", "other__a.b", "a", "a.b", *made.origins):
        assert made.origin(name, custom=False).item != "mcp_call"


def test_servers_that_run_elsewhere_are_refused_as_ever():
    message = "Tool type 'mcp' is not supported by this server."
    assert refusal([DOCS], hosting=NOTHING) == (message, "tools[0].type", "unsupported_parameter")
    assert planned([F, DOCS], hosting=NOTHING, unsupported_tools="drop").dropped == ["mcp"]


@pytest.mark.parametrize(
    ("tools", "input_", "place"),
    [
        ([], [{"type": "additional_tools", "tools": [DOCS]}], "input[0].tools[0].type"),
        ([{"type": "namespace", "name": "n", "tools": [DOCS]}], [], "tools[0].tools[0].type"),
    ],
)
def test_a_server_is_declared_in_the_tools_themselves(tools, input_, place):
    message = f"Invalid '{place}': tools of type 'mcp' can only be declared in 'tools' itself."
    assert refusal(tools, input_=input_) == (message, place, "unsupported_parameter")


def test_a_tool_of_a_server_may_not_come_out_under_another_tools_name():
    message, param, _ = refusal([{"type": "function", "name": "docs__read"}, DOCS])
    assert param == "tools[1]" and "'docs__read'" in message


# -- hosted types


@pytest.mark.parametrize(
    ("type_", "name", "key"),
    [
        ("web_search", "web_search", "query"),
        ("web_search_preview_2025_03_11", "web_search", "query"),
        ("file_search", "file_search", "queries"),
        ("code_interpreter", "code_interpreter", "code"),
    ],
)
def test_a_bound_type_is_one_function(type_, name, key):
    made = planned([{"type": type_}, F])
    assert names(made) == [name, "f"] and made.dropped == []
    assert made.tools[0]["function"]["parameters"]["required"] == [key]
    assert made.origins == {name: Origin(f"{name}_call", name)}
    assert planned([{"type": type_}], {"type": type_}).choice == {"type": "function", "function": {"name": name}}


def test_a_search_says_where_the_user_is():
    place = {"type": "approximate", "city": "Oslo", "region": None, "country": "NO", "timezone": "Europe/Oslo"}
    described = [
        planned([{"type": "web_search", "user_location": given}]).tools[0]["function"]["description"]
        for given in (None, {"type": "approximate"}, place)
    ]
    assert described[0] == described[1] and described[2] == f"{described[0]} The user is in Oslo, NO, Europe/Oslo."


def test_a_search_without_access_to_the_web_stays_left_out():
    """Codex asks for one with every request."""
    assert planned([F, {"type": "web_search", "external_web_access": False}]).dropped == ["web_search"]


# -- the choice


def limited(mode, *chosen):
    return {"mode": mode, "tools": [{"type": "function", "function": {"name": name}} for name in chosen]}


@pytest.mark.parametrize(
    ("choice", "sent", "kept", "passing"),
    [
        ("required", "required", ["f", *ALL, "other__search"], None),
        ({"type": "mcp", "server_label": "other"}, "other__search", ["f", *ALL, "other__search"], None),
        ({"type": "mcp", "server_label": "docs", "name": "read"}, "docs__read", ["f", *ALL, "other__search"], None),
        ({"type": "mcp", "server_label": "docs"}, "required", ALL, {*ALL, "docs.read", "docs.search", "docs.write"}),
        (
            {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "mcp", "server_label": "docs", "name": "read"}],
            },
            "auto",
            ["docs__read"],
            {"docs__read", "docs.read", "read"},
        ),
    ],
)
def test_a_choice_may_name_a_server_or_one_of_its_tools(choice, sent, kept, passing):
    made = planned([F, DOCS, OTHER], choice)
    one = {"type": "function", "function": {"name": sent}}
    assert (made.choice, names(made)) == (sent if sent in ("auto", "required") else one, kept)
    assert made.allowed is None if passing is None else made.allowed >= passing
    assert "f" not in (made.allowed or ())
    again = planned([F, DOCS, OTHER], choice, hosting=replace(HERE, again=True))
    assert again.choice == "auto"


def test_openai_itself_is_told_the_set():
    made = planned([F, DOCS], {"type": "mcp", "server_label": "docs"}, openai_like=True)
    assert made.choice == {"type": "allowed_tools", "allowed_tools": limited("required", *ALL)}


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "mcp", "server_label": "gone"},
        {"type": "mcp", "server_label": "docs", "name": "gone"},
        {"type": "file_search"},
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp", "server_label": "gone"}]},
    ],
)
def test_a_choice_of_what_is_not_there_is_refused(choice):
    message, param, _ = refusal([DOCS], choice)
    assert "not found in 'tools' parameter" in message and param == "tool_choice"


@pytest.mark.parametrize(
    "choice",
    [
        "required",
        {"type": "mcp", "server_label": "docs"},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "mcp", "server_label": "docs"}]},
    ],
)
def test_a_choice_of_tools_that_are_not_known_forces_nothing(choice):
    assert planned([DOCS], choice, hosting=Hosting(mcp=True)).tools is None


@pytest.mark.parametrize("choice", [None, "required", {"type": "mcp", "server_label": "docs"}])
def test_withheld_tools_are_not_offered_but_known_by_name(choice):
    made = planned([F, DOCS, {"type": "web_search"}], choice, hosting=replace(HERE, withheld=True))
    assert names(made) == ["f"] and made.choice in (None, "auto")
    assert made.origins.keys() >= {*ALL, "web_search"}
    assert planned([DOCS], choice, hosting=replace(HERE, withheld=True)).tools is None
    idle = planned([DOCS], choice, hosting=replace(HERE, withheld=True), idle_tools=True)
    assert (names(idle), idle.choice) == (ALL, "none")


# -- the echo


def test_secrets_are_not_repeated():
    secret = {"authorization": "s3cret", "headers": {"x-key": "s3cret"}, "server_url": f"{URL}?key=s3cret"}
    (told,) = echo([DOCS | secret])
    assert told == {**DOCS, "server_url": f"{URL}?<redacted>"}
    assert echo([DOCS]) == [DOCS]
