"""The bodies of the Conversations API (wire §3.8)."""

from __future__ import annotations

from typing import Any

from proxy.errors import InvalidRequest
from proxy.wire import check, items

MOST_ITEMS = 20

_NOT_KEPT = ("item_reference", "compaction_trigger")


def create_conversation(body: Any) -> dict[str, Any]:
    """``{"items": [...], "metadata": {...}}``, both always there. No body at all (None) counts as an empty one."""
    given = check.without_nulls({} if body is None else body, "")
    return {
        "items": _items(given.get("items", []), "items"),
        "metadata": check.metadata(given.get("metadata", {}), "metadata"),
    }


def update_conversation(body: Any) -> dict[str, str]:
    """The new metadata, which replaces the old; null clears it, and a key whose value is null is left out."""
    given = check.mapping({} if body is None else body, "")
    if "metadata" not in given:
        raise check.missing("metadata")
    pairs = given["metadata"]
    return {} if pairs is None else check.metadata(check.without_nulls(pairs, "metadata"), "metadata")


def create_items(body: Any) -> list[items.Item]:
    """The 1 to 20 items to add, in stored form."""
    given = check.without_nulls({} if body is None else body, "")
    if "items" not in given:
        raise check.missing("items")
    if given["items"] == []:
        raise check.empty_array("items")
    return _items(given["items"], "items")


def _items(value: Any, at: str) -> list[items.Item]:
    if len(check.array(value, at)) > MOST_ITEMS:
        raise InvalidRequest(
            f"Invalid '{at}': array too long. Expected an array with maximum length {MOST_ITEMS}, "
            f"but got an array with length {len(value)} instead.",
            code="array_above_max_length",
            param=at,
        )
    stored = items.input_items(value, at)
    for i, item in enumerate(stored):
        if item["type"] in _NOT_KEPT:
            raise InvalidRequest(
                f"Invalid value: '{item['type']}'. Items of this type cannot be added to a conversation.",
                code="invalid_value",
                param=f"{at}[{i}].type",
            )
    return stored
