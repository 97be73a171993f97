"""The OpenAPI document says what the code does: the same paths and methods, parameters, bounds, items and events."""

import re
from pathlib import Path

import hypothesis
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis.core import NOT_SET

import proxy
from proxy import errors
from proxy.app import ALIAS, PREFIX, create_app
from proxy.errors import InvalidRequest
from proxy.settings import Settings
from proxy.wire import (
    compact_response,
    conversations,
    count_input_tokens,
    create_conversation,
    create_items,
    create_response,
    items,
    page,
    responses,
    tools,
    update_conversation,
)
from tests.contract.document import DOCUMENT, SCHEMAS, operations, resolved
from tests.contract.fuzz import SCHEMA

ROOT = Path(proxy.__file__).parent


def test_the_document_is_valid_openapi():
    assert [error.message for error in OpenAPIV31SpecValidator(DOCUMENT).iter_errors()] == []


def served(*options):
    """Path, as the document writes it, to methods of every route of the application."""
    app = create_app(
        Settings.resolve(["--store=redis://127.0.0.1:1", "--upstream=http://127.0.0.1:1/v1", *options], {})
    )
    own = app._app.own
    routes = [*own._plain.values(), *(resource for _, resource in own._named)]
    return {route.path: set(route._endpoints) - {"HEAD"} for route in routes}


def test_every_route_is_in_the_document_and_the_other_way_round():
    routes = served()
    documented = {}
    for operation in operations():
        documented.setdefault(operation.path, set()).add(operation.method)
    assert {path: methods for path, methods in routes.items() if not path.startswith(ALIAS)} == documented
    alias = {path.replace(ALIAS, PREFIX, 1): methods for path, methods in routes.items() if path.startswith(ALIAS)}
    assert alias == {path: methods for path, methods in documented.items() if path.startswith(PREFIX)}
    assert [server["url"] + PREFIX for server in DOCUMENT["servers"][1:]] == [ALIAS]


def test_every_parameter_in_a_path_is_declared():
    for operation in operations():
        assert re.findall(r"\{(\w+)\}", operation.path) == operation.names("path")


def test_every_parameter_of_create_is_in_the_document_and_no_other():
    assert SCHEMAS["CreateResponse"]["properties"].keys() == responses._PARAMETERS.keys()


def test_what_is_asked_like_create_is_described_like_create():
    create = SCHEMAS["CreateResponse"]["properties"]
    for name in ("CompactResponse", "CountInputTokens"):
        for key, schema in SCHEMAS[name]["properties"].items():
            assert schema == create[key] or (name, key) == ("CompactResponse", "conversation")


def probes(properties):
    """(name, value, whether it is taken) at and beyond every bound."""
    for name, schema in properties.items():
        step = 1 if "integer" in schema.get("type", ()) else 0.5
        for bound, outwards in (("minimum", -step), ("maximum", step)):
            if bound in schema:
                yield name, schema[bound], True
                yield name, schema[bound] + outwards, False
        if None in schema.get("enum", ()):
            yield from ((name, value, True) for value in schema["enum"])
            yield name, "another", False


def taken(check, value):
    try:
        check(value)
    except InvalidRequest:
        return False
    return True


@pytest.mark.parametrize(("name", "value", "wanted"), list(probes(SCHEMAS["CreateResponse"]["properties"])))
def test_a_bound_of_create_is_the_codes_own(name, value, wanted):
    assert taken(create_response, {"model": "m", "input": "x", name: value}) is wanted


def test_a_type_of_create_is_the_codes_own():
    samples = {"string": "x", "integer": 1, "number": 0.5, "boolean": False, "array": [], "object": {}, "null": None}
    for name, schema in SCHEMAS["CreateResponse"]["properties"].items():
        if "type" not in schema or "enum" in schema:
            continue  # a union, or values of their own
        types = {schema["type"]} if isinstance(schema["type"], str) else set(schema["type"])
        types |= {"integer"} if "number" in types else set()
        for kind, sample in samples.items():
            request = {"model": "m", "input": "x", "stream": True, name: sample}  # some count in streams only
            assert taken(create_response, request) is (kind in types), (name, kind)


def test_the_bounds_of_pages_are_the_codes_own():
    limit = resolved(DOCUMENT["components"]["parameters"]["Limit"])["schema"]
    low, high = limit["minimum"], limit["maximum"]
    for value, wanted in ((low, True), (high, True), (low - 1, False), (high + 1, False)):
        assert taken(page, [("limit", str(value))]) is wanted
    order = resolved(DOCUMENT["components"]["parameters"]["Order"])["schema"]
    for value in order["enum"]:
        assert taken(page, [("order", value)])
    assert (page([])["limit"], page([])["order"]) == (limit["default"], order["default"])


def test_the_bounds_of_conversations_are_the_codes_own():
    kept = SCHEMAS["CreateItems"]["properties"]["items"]
    assert (
        kept["maxItems"] == SCHEMAS["CreateConversation"]["properties"]["items"]["maxItems"] == conversations.MOST_ITEMS
    )
    item = {"role": "user", "content": "x"}
    for count in (kept["minItems"] - 1, kept["minItems"], kept["maxItems"], kept["maxItems"] + 1):
        wanted = kept["minItems"] <= count <= kept["maxItems"]
        assert taken(create_items, {"items": [item] * count}) is wanted
    metadata = SCHEMAS["CreateConversation"]["properties"]["metadata"]
    longest = metadata["propertyNames"]["maxLength"], metadata["additionalProperties"]["maxLength"]
    for pairs, key, value in ((metadata["maxProperties"], *longest),):
        most = {f"{n:0{key}}": "v" * value for n in range(pairs)}
        assert taken(create_conversation, {"metadata": most})
        assert not taken(create_conversation, {"metadata": most | {"k": "v"}})
        assert not taken(create_conversation, {"metadata": {"k" * (key + 1): "v"}})
        assert not taken(create_conversation, {"metadata": {"k": "v" * (value + 1)}})


CHECKS = {
    "createResponse": create_response,
    "compactResponse": compact_response,
    "countInputTokens": count_input_tokens,
    "createConversation": create_conversation,
    "updateConversation": update_conversation,
    "createConversationItems": create_items,
}
BEYOND = (
    "another tool is named|must be the last of the input|expected an integer, but got a decimal number"
    "|expected an absolute http or https URL|this header cannot be set"
)
"""What a schema cannot say: names that differ, an item's place, a whole URL; 1.0 is an integer to it."""


@pytest.mark.parametrize("name", CHECKS)
def test_what_the_document_allows_is_taken(name):
    operation = next(operation for operation in operations() if operation.name == name)
    requests = SCHEMA[operation.path][operation.method].as_strategy()
    declared = SCHEMAS[name[:1].upper() + name[1:].replace("ConversationItems", "Items")]["properties"]

    @hypothesis.seed(1)
    @hypothesis.settings(
        max_examples=25,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],  # to make such bodies smaller takes minutes
    )
    @hypothesis.given(requests)
    def check(case):
        try:
            CHECKS[name](None if case.body is NOT_SET else case.body)
        except InvalidRequest as exc:
            chance = exc.param and re.split(r"[.\[]", exc.param)[0] not in declared  # a key guessed by chance
            assert chance or re.search(BEYOND, exc.message), exc.message

    check()


def test_every_item_with_a_shape_of_its_own_is_in_the_document():
    types = [resolved(one)["properties"].get("type", {}) for one in SCHEMAS["InputItem"]["anyOf"]]
    known = {type_.get("const") for type_ in types} - {None}
    assert known == items._SHAPES.keys()
    assert set(SCHEMAS["OtherInput"]["properties"]["type"]["not"]["enum"]) == items._SHAPES.keys()


def test_every_tool_choice_is_in_the_document():
    *_, hosted = SCHEMAS["ToolChoice"]["anyOf"]
    assert tuple(hosted["properties"]["type"]["enum"]) == tools._HOSTED_CHOICES


def test_every_event_that_is_written_is_in_the_document():
    sources = [*sorted((ROOT / "translate").glob("*.py")), *sorted((ROOT / "turn").glob("*.py"))]
    text = "\n".join(path.read_text("utf-8") for path in sources)
    written = set(
        re.findall(
            r'"(response\.[a-z_]+(?:\.[a-z_]+)+|response\.(?:created|in_progress|completed|incomplete|failed))"', text
        )
    )
    mapping = SCHEMAS["StreamEvent"]["discriminator"]["mapping"]
    assert written
    assert written <= mapping.keys()
    assert [one["$ref"] for one in SCHEMAS["StreamEvent"]["oneOf"]] == list(mapping.values())
    assert {f"Event.{name}" for name in mapping} == {name for name in SCHEMAS if name.startswith("Event.")}
    for name in mapping:
        assert SCHEMAS[f"Event.{name}"]["properties"]["type"]["const"] == name


def kinds(cls=errors.StatecarError):
    yield cls
    for inner in cls.__subclasses__():
        yield from kinds(inner)


def test_every_status_of_an_error_is_in_the_document():
    told = {status for operation in operations() for status in operation.text["responses"]}
    assert {str(kind.status) for kind in kinds()} - told == {"405"}  # of another method, so of no operation


def test_every_component_is_used():
    text = str(DOCUMENT)
    for group in ("schemas", "parameters", "responses", "headers"):
        for name in DOCUMENT["components"][group]:
            assert f"#/components/{group}/{name}'" in text, f"nothing refers to {name}"
