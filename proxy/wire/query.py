"""Query parameters (wire §1.4, §3.2, §3.5).

A query is its decoded (name, value) pairs. Of a repeated name the last counts; an empty value is the same as none, but
for ``starting_after``: whoever has lost its value must not get the whole stream for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from proxy.errors import InvalidRequest
from proxy.wire import check

Query = Sequence[tuple[str, str]]

_INTEGER = re.compile(r"-?[0-9]{1,100}", re.ASCII)
_TRUE, _FALSE = ("true", "1"), ("false", "0")


def page(query: Query) -> dict[str, Any]:
    """``{"limit": 1..100, "order": "asc" | "desc", "after": id | None, "before": id | None, "include": [...]}``.

    Defaults 20 and desc. Raises for bounds, another order, and for both cursors at once.
    """
    after, before = text(query, "after"), text(query, "before")
    if after is not None and before is not None:
        raise InvalidRequest(
            "Cannot provide both 'after' and 'before' in the same request.",
            code="mutually_exclusive_parameters",
            param="after",
        )
    limit = integer(query, "limit", 1, 100)
    return {
        "limit": 20 if limit is None else limit,
        "order": check.one_of("asc", "desc")(text(query, "order") or "desc", "order"),
        "after": after,
        "before": before,
        "include": include(query),
    }


def text(query: Query, name: str) -> str | None:
    """The value of a parameter, None when absent."""
    for key, value in reversed(query):
        if key == name and value:
            return value
    return None


def flag(query: Query, name: str) -> bool:
    """Whether a parameter is ``true`` or ``1``; absent is False."""
    value = (text(query, name) or "false").lower()
    if value not in _TRUE + _FALSE:
        raise check.wrong_type(name, "a boolean", value)
    return value in _TRUE


def starting_after(query: Query) -> int | None:
    """The number after which a stream goes on; None when absent."""
    name = "starting_after"
    if any(key == name and not value for key, value in query):
        raise check.wrong_type(name, "an integer", "")
    return integer(query, name, 0)


def integer(query: Query, name: str, low: int, high: int | None = None) -> int | None:
    """A whole number within bounds, both inclusive; None when absent."""
    value = text(query, name)
    if value is None:
        return None
    if not _INTEGER.fullmatch(value):
        raise check.wrong_type(name, "an integer", value)
    number = int(value)
    check.within("integer", number, name, low, high)
    return number


def include(query: Query) -> list[str]:
    """The values of ``include[]=a&include[]=b``, ``include=a&include=b`` and ``include=a,b``; unknown ones stay."""
    values = [value for key, value in query if key in ("include", "include[]")]
    return [name.strip() for value in values for name in value.split(",") if name.strip()]
