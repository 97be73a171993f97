"""MCP servers, approvals and web searches as clients may write them (wire §6.2, §6.6)."""

import pytest

from proxy import wire
from tests.wire.refusals import refusal

SERVER = {"type": "mcp", "server_label": "docs", "server_url": "https://docs.example/mcp?a=b"}
REQUEST = {"type": "mcp_approval_request", "id": "mcpr_1", "server_label": "docs", "name": "search", "arguments": "{}"}
RESPONSE = {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": False}
LISTING = {"type": "mcp_list_tools", "server_label": "docs", "tools": [{"name": "search", "annotations": {}}]}


def create(*tools, choice=None, items=({"role": "user", "content": "hi"},)):
    return wire.create_response({"model": "m", "input": list(items), "tools": list(tools), "tool_choice": choice})


def refused(*tools, choice=None):
    return refusal(lambda: create(*tools, choice=choice))


@pytest.mark.parametrize(
    "more",
    [
        {"server_url": "http://[::1]:9001/mcp"},
        {"server_url": "https://müller.example/mcp"},
        {"authorization": "Bearer a b~", "headers": {"X-Key": "\ta b", "authorization": ""}},
        {"allowed_tools": [], "require_approval": "never", "server_description": ""},
        {"allowed_tools": {"tool_names": ["a"], "read_only": True}},
        {"allowed_tools": {}, "require_approval": {}},
        {"require_approval": {"always": {"tool_names": ["a"]}, "never": {"read_only": True}}},
        {"defer_loading": True, "allowed_callers": ["direct"]},
    ],
)
def test_a_server_passes_as_it_came(more):
    assert create(SERVER | more)["tools"] == [SERVER | more]


def test_a_server_of_the_operator_needs_no_url_and_nulls_say_nothing():
    tool = {"type": "mcp", "server_label": "a-B_9", "connector_id": "mail"}
    nulls = dict.fromkeys(("server_url", "tunnel_id", "headers", "allowed_tools", "require_approval"))
    assert create(tool | nulls)["tools"] == [tool]
    filters = {"require_approval": {"always": None, "never": {"tool_names": ["a"], "read_only": None}}}
    assert create(tool | filters)["tools"] == [tool | {"require_approval": {"never": {"tool_names": ["a"]}}}]


SECRET = "s3cret"


@pytest.mark.parametrize(
    ("more", "code", "place"),
    [
        ({"server_label": None}, "missing_required_parameter", ".server_label"),
        ({"server_label": ""}, "empty_string", ".server_label"),
        ({"server_label": "a b"}, "invalid_value", ".server_label"),
        ({"server_label": "a" * 65}, "invalid_value", ".server_label"),
        ({"server_url": None}, "missing_required_parameter", ""),
        ({"connector_id": "mail"}, "invalid_value", ""),
        ({"server_url": None, "connector_id": 1}, "invalid_type", ".connector_id"),
        ({"tunnel_id": "tunnel_1"}, "unsupported_parameter", ".tunnel_id"),
        ({"server_url": 1}, "invalid_type", ".server_url"),
        ({"server_url": "docs.example"}, "invalid_value", ".server_url"),
        ({"server_url": "ftp://docs.example"}, "invalid_value", ".server_url"),
        ({"server_url": "https:///mcp"}, "invalid_value", ".server_url"),
        ({"server_url": "https://docs.example:port"}, "invalid_value", ".server_url"),
        ({"server_url": "https://docs.example:0"}, "invalid_value", ".server_url"),
        ({"server_url": "https://[::1"}, "invalid_value", ".server_url"),
        ({"server_url": "https://docs.example/\r\nx"}, "invalid_value", ".server_url"),
        ({"server_url": "https://docs.example\\@evil.example"}, "invalid_value", ".server_url"),
        ({"server_url": f"https://me:{SECRET}@docs.example"}, "invalid_value", ".server_url"),
        ({"authorization": 1}, "invalid_type", ".authorization"),
        ({"authorization": ""}, "empty_string", ".authorization"),
        ({"authorization": f"{SECRET}\r\nx: y"}, "invalid_value", ".authorization"),
        ({"authorization": f"{SECRET}ü"}, "invalid_value", ".authorization"),
        ({"headers": []}, "invalid_type", ".headers"),
        ({"headers": {"a": 1}}, "invalid_type", ".headers.a"),
        ({"headers": {"a b": SECRET}}, "invalid_value", ".headers"),
        ({"headers": {"a": f"{SECRET}\n"}}, "invalid_value", ".headers.a"),
        ({"headers": {"HOST": SECRET}}, "invalid_value", ".headers.HOST"),
        ({"headers": {"Mcp-Session-Id": SECRET}}, "invalid_value", ".headers.Mcp-Session-Id"),
        ({"headers": {"Content-Length": "1"}}, "invalid_value", ".headers.Content-Length"),
        ({"allowed_tools": "a"}, "invalid_type", ".allowed_tools"),
        ({"allowed_tools": [1]}, "invalid_type", ".allowed_tools[0]"),
        ({"allowed_tools": {"tool_names": "a"}}, "invalid_type", ".allowed_tools.tool_names"),
        ({"allowed_tools": {"names": ["a"]}}, "invalid_value", ".allowed_tools"),
        ({"require_approval": "sometimes"}, "invalid_value", ".require_approval"),
        ({"require_approval": True}, "invalid_type", ".require_approval"),
        ({"require_approval": {"sometimes": {}}}, "invalid_value", ".require_approval"),
        ({"require_approval": {"never": {"read_only": 1}}}, "invalid_type", ".require_approval.never.read_only"),
        ({"server_description": 1}, "invalid_type", ".server_description"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_faulty_server_is_refused_by_its_exact_place(more, code, place):
    found, param, text = refused(SERVER | more)
    assert (found, param) == (code, f"tools[0]{place}")
    assert SECRET not in text


@pytest.mark.parametrize("type_", ["additional_tools", "tool_search_output"])
def test_an_item_keeps_no_secret_of_a_server_that_it_names(type_):
    tool = SERVER | {
        "authorization": SECRET,
        "headers": {"x-key": SECRET},
        "server_url": f"https://docs.example/?{SECRET}",
    }
    shown = SERVER | {"server_url": "https://docs.example/?<redacted>"}
    space = {"type": "namespace", "name": "all", "description": "d"}
    item = {"type": type_, "role": "developer", "tools": [tool, space | {"tools": [tool]}]}
    assert wire.input_item(item, "input[0]")["tools"] == [shown, space | {"tools": [shown]}]
    assert create(space | {"tools": [tool]})["tools"] == [space | {"tools": [shown]}]
    assert create(tool)["tools"] == [tool]


def test_two_servers_have_two_labels():
    message = "Invalid 'tools[1].server_label': another server is labeled 'docs'. Labels of servers must be unique."
    assert refused(SERVER, SERVER) == ("invalid_value", "tools[1].server_label", message)


def test_a_request_names_no_more_servers_than_a_turn_may_hold_open():
    many = [SERVER | {"server_label": f"docs{n}"} for n in range(33)]
    assert len(create(*many[:32])["tools"]) == 32
    assert refused(*many) == ("array_above_max_length", "tools", "Invalid 'tools': more than 32 MCP servers.")


def test_a_choice_names_its_server():
    few = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}
    assert refused(SERVER, choice={"type": "mcp"})[1] == "tool_choice.server_label"
    assert refused(SERVER, choice={"type": "mcp", "server_label": "docs", "name": 1})[1] == "tool_choice.name"
    assert refused(SERVER, choice=few)[1] == "tool_choice.tools[0].server_label"


@pytest.mark.parametrize("item", [REQUEST, RESPONSE, RESPONSE | {"reason": "no"}, LISTING])
def test_an_item_about_a_server_is_kept_as_it_is(item):
    assert wire.input_item(item, "input[0]") == item


@pytest.mark.parametrize(
    ("item", "code", "place"),
    [
        (RESPONSE | {"approval_request_id": None}, "missing_required_parameter", "approval_request_id"),
        (RESPONSE | {"approve": None}, "missing_required_parameter", "approve"),
        (RESPONSE | {"approve": "yes"}, "invalid_type", "approve"),
        (RESPONSE | {"reason": 1}, "invalid_type", "reason"),
        (REQUEST | {"server_label": None}, "missing_required_parameter", "server_label"),
        (REQUEST | {"name": 1}, "invalid_type", "name"),
        (REQUEST | {"arguments": None}, "missing_required_parameter", "arguments"),
        (REQUEST | {"arguments": {}}, "invalid_type", "arguments"),
        (LISTING | {"tools": None}, "missing_required_parameter", "tools"),
        (LISTING | {"tools": [{}]}, "missing_required_parameter", "tools[0].name"),
        (LISTING | {"tools": ["search"]}, "invalid_type", "tools[0]"),
        (LISTING | {"tools": [{"name": "a", "description": 5}]}, "invalid_type", "tools[0].description"),
    ],
)
def test_a_faulty_item_about_a_server_is_refused(item, code, place):
    assert refusal(wire.input_item, item, "input[1]")[:2] == (code, f"input[1].{place}")


SEARCH = {"type": "web_search"}


def test_what_a_search_is_to_heed_passes_as_it_came():
    location = {"type": "approximate", "country": "DE", "city": None}
    tool = SEARCH | {
        "filters": {"allowed_domains": ["a.example"]},
        "user_location": location,
        "search_context_size": "low",
    }
    (kept,) = create(tool)["tools"]
    assert kept == tool | {"user_location": {"type": "approximate", "country": "DE"}}


@pytest.mark.parametrize(
    ("more", "code", "place"),
    [
        ({"filters": []}, "invalid_type", "filters"),
        ({"filters": {"allowed_domains": "a"}}, "invalid_type", "filters.allowed_domains"),
        ({"filters": {"blocked_domains": [1]}}, "invalid_type", "filters.blocked_domains[0]"),
        ({"user_location": "DE"}, "invalid_type", "user_location"),
        ({"user_location": {"type": "exact"}}, "invalid_value", "user_location.type"),
        ({"user_location": {"city": 1}}, "invalid_type", "user_location.city"),
        ({"search_context_size": "huge"}, "invalid_value", "search_context_size"),
        ({"external_web_access": "no"}, "invalid_type", "external_web_access"),
    ],
)
def test_a_faulty_search_is_refused(more, code, place):
    for type_ in ("web_search", "web_search_preview"):
        assert refused({**SEARCH, "type": type_} | more)[:2] == (code, f"tools[0].{place}")


EQUALS = {"type": "eq", "key": "lang", "value": "en"}


def nested(depth):
    return {"type": "or", "filters": [nested(depth - 1)]} if depth else EQUALS


@pytest.mark.parametrize("filters", [EQUALS, {"type": "in", "key": "n", "value": [1]}, nested(8)])
def test_what_a_file_search_is_to_heed_passes_as_it_came(filters):
    tool = {"type": "file_search", "vector_store_ids": ["vs_1"], "max_num_results": 50, "filters": filters}
    tool["ranking_options"] = {"ranker": "auto", "score_threshold": 0.5}
    assert create(tool)["tools"] == [tool]


@pytest.mark.parametrize(
    ("more", "code", "place"),
    [
        ({"vector_store_ids": "vs_1"}, "invalid_type", "vector_store_ids"),
        ({"max_num_results": 0}, "integer_below_min_value", "max_num_results"),
        ({"max_num_results": "5"}, "invalid_type", "max_num_results"),
        ({"ranking_options": {"score_threshold": 2}}, "decimal_above_max_value", "ranking_options.score_threshold"),
        ({"filters": {"type": "like", "key": "a", "value": 1}}, "invalid_value", "filters.type"),
        ({"filters": {"type": "eq", "value": 1}}, "missing_required_parameter", "filters.key"),
        ({"filters": {"type": "eq", "key": "a"}}, "missing_required_parameter", "filters.value"),
        ({"filters": {"type": "and"}}, "missing_required_parameter", "filters.filters"),
        ({"filters": {"type": "and", "filters": [{}]}}, "missing_required_parameter", "filters.filters[0].type"),
        ({"filters": nested(9)}, "unsupported_parameter", "filters" + ".filters[0]" * 8),
    ],
)
def test_a_faulty_file_search_is_refused(more, code, place):
    assert refused({"type": "file_search"} | more)[:2] == (code, f"tools[0].{place}")
