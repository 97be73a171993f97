"""Bodies of the Conversations API (wire §3.8)."""

import pytest

from proxy import wire
from tests.wire.refusals import refusal

GIVEN = {"role": "user", "content": "a"}
KEPT = {"type": "message", "status": "completed", "role": "user", "content": [{"type": "input_text", "text": "a"}]}


@pytest.mark.parametrize("body", [None, {}, {"items": None, "metadata": None}, {"items": [], "name": "x"}])
def test_a_conversation_may_begin_with_nothing(body):
    assert wire.create_conversation(body) == {"items": [], "metadata": {}}


def test_a_conversation_begins_with_items_in_stored_form():
    body = {"items": [GIVEN] * 20, "metadata": {"topic": "x"}}
    assert wire.create_conversation(body) == {"items": [KEPT] * 20, "metadata": {"topic": "x"}}


@pytest.mark.parametrize(
    ("given", "kept"),
    [({"a": "b"}, {"a": "b"}), ({}, {}), (None, {}), ({"a": None, "b": "c"}, {"b": "c"}), ({"a" * 65: None}, {})],
)
def test_an_update_replaces_the_metadata_and_null_removes(given, kept):
    assert wire.update_conversation({"metadata": given}) == kept


@pytest.mark.parametrize("many", [1, 20])
def test_one_to_twenty_items_are_added_in_their_order(many):
    items = [{"role": "user", "content": str(i), "id": f"msg_{i}"} for i in range(many)]
    assert [item["id"] for item in wire.create_items({"items": items})] == [item["id"] for item in items]


TOO_MANY = (
    "array_above_max_length",
    "items",
    "Invalid 'items': array too long. Expected an array with maximum length 20, "
    "but got an array with length 21 instead.",
)
EMPTY = (
    "empty_array",
    "items",
    "Invalid 'items': empty array. Expected an array with minimum length 1, but got an empty array instead.",
)
MISSING_ITEMS = ("missing_required_parameter", "items", "Missing required parameter: 'items'.")
MISSING_METADATA = ("missing_required_parameter", "metadata", "Missing required parameter: 'metadata'.")
NO_REFERENCE = (
    "invalid_value",
    "items[1].type",
    "Invalid value: 'item_reference'. Items of this type cannot be added to a conversation.",
)
NO_TRIGGER = (
    "invalid_value",
    "items[0].type",
    "Invalid value: 'compaction_trigger'. Items of this type cannot be added to a conversation.",
)
NO_STRING = ("invalid_type", "items", "Invalid type for 'items': expected an array, but got a string instead.")
NO_OBJECT = (
    "invalid_type",
    "metadata",
    "Invalid type for 'metadata': expected an object, but got an array instead.",
)
NO_BODY = ("invalid_type", None, "Invalid type for the request body: expected an object, but got an array instead.")
REFUSALS = [
    (wire.create_conversation, {"items": [GIVEN] * 21}, TOO_MANY),
    (wire.create_conversation, {"items": [GIVEN, {"id": "msg_1"}]}, NO_REFERENCE),
    (wire.create_conversation, {"items": [GIVEN, {"type": "reasoning", "id": "rs_1"}]}, NO_REFERENCE),
    (wire.create_conversation, {"items": "hi"}, NO_STRING),
    (wire.create_conversation, {"metadata": []}, NO_OBJECT),
    (wire.create_conversation, [], NO_BODY),
    (wire.update_conversation, None, MISSING_METADATA),
    (wire.update_conversation, {"items": []}, MISSING_METADATA),
    (wire.update_conversation, {"metadata": []}, NO_OBJECT),
    (wire.update_conversation, [], NO_BODY),
    (wire.create_items, None, MISSING_ITEMS),
    (wire.create_items, {"items": None}, MISSING_ITEMS),
    (wire.create_items, {"items": []}, EMPTY),
    (wire.create_items, {"items": [GIVEN] * 21}, TOO_MANY),
    (wire.create_items, {"items": "hi"}, NO_STRING),
    (wire.create_items, {"items": [GIVEN, {"type": "item_reference", "id": "x"}]}, NO_REFERENCE),
    (wire.create_items, {"items": [{"type": "compaction_trigger"}]}, NO_TRIGGER),
    (wire.create_items, [GIVEN], NO_BODY),
]


@pytest.mark.parametrize(("call", "body", "expected"), REFUSALS)
def test_a_faulty_body_is_refused_in_the_words_of_the_reference(call, body, expected):
    assert refusal(call, body) == expected


@pytest.mark.parametrize("call", [wire.create_conversation, wire.create_items])
def test_a_fault_in_an_item_is_told_by_its_place_among_the_items(call):
    items = [GIVEN, {"role": "user", "content": [{"type": "input_text"}]}]
    assert refusal(call, {"items": items})[:2] == ("missing_required_parameter", "items[1].content[0].text")


@pytest.mark.parametrize("call", [wire.create_conversation, wire.update_conversation])
def test_metadata_limits_hold_for_conversations_too(call):
    assert refusal(call, {"metadata": {"k": "v" * 513}})[:2] == ("string_above_max_length", "metadata.k")
