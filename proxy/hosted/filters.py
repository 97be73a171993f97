"""Attribute filters of a file search (OpenAPI ComparisonFilter, CompoundFilter), for servers that have none."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}


def matches(wanted: Mapping[str, Any], attributes: Mapping[str, Any]) -> bool:
    """Whether a file with these attributes passes. One that lacks the key passes ``ne`` and ``nin`` alone."""
    type_ = wanted["type"]
    if type_ in ("and", "or"):
        return (all if type_ == "and" else any)(matches(inner, attributes) for inner in wanted["filters"])
    there, value = attributes.get(wanted["key"]), wanted["value"]
    if type_ in ("eq", "ne"):
        return (there == value) is (type_ == "eq")
    if type_ in ("in", "nin"):
        return (isinstance(value, list) and there in value) is (type_ == "in")
    comparable = isinstance(there, str) and isinstance(value, str) or _is_number(there) and _is_number(value)
    return comparable and _ORDERS[type_](there, value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
