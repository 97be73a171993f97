"""What a bound tool is called with: what is wanted, under the names that the MCP tool's schema has for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proxy.hosted.search import Search

_QUERY = ("query", "queries", "q", "search_query", "searchQuery", "search_term", "search", "keywords", "text", "input")
_CODE = ("code", "source", "source_code", "script", "python", "python_code", "program", "input")
_COUNT = ("max_num_results", "max_results", "maxResults", "num_results", "numResults", "count", "limit", "top_k", "k")
_DOMAINS = ("include_domains", "includeDomains", "allowed_domains", "allowedDomains", "domains", "sites")
_BLOCKED = ("exclude_domains", "excludeDomains", "blocked_domains", "blockedDomains")
_STORES = ("vector_store_ids", "vectorStoreIds", "store_ids", "collections")
_STORE = ("vector_store_id", "vectorStoreId", "store_id", "collection")
_KINDS: dict[type, tuple[str, ...]] = {
    str: ("string",),
    int: ("integer", "number"),
    float: ("number",),
    list: ("array",),
    dict: ("object",),
}


@dataclass(frozen=True)
class Wanted:
    """``texts``: what the call is about, under one of ``names``; ``extras``: what else goes along where it is known."""

    texts: list[str]
    names: tuple[str, ...]
    extras: tuple[tuple[tuple[str, ...], Any], ...]

    @classmethod
    def web(cls, search: Search, tool: Mapping[str, Any]) -> Wanted:
        return cls(
            [search.query],
            _QUERY,
            (
                (_COUNT, search.count),
                (_DOMAINS, list(search.domains)),
                (_BLOCKED, list(search.blocked)),
                (("country_code",), search.location.get("country")),
                (("user_location",), dict(search.location)),
                (("search_context_size",), tool.get("search_context_size")),
            ),
        )

    @classmethod
    def files(cls, queries: list[str], count: int, tool: Mapping[str, Any]) -> Wanted:
        stores = list(tool.get("vector_store_ids") or ())
        return cls(
            queries,
            _QUERY,
            (
                (_COUNT, count),
                (_STORES, stores),
                (_STORE, stores[0] if len(stores) == 1 else None),
                (("filters", "filter"), tool.get("filters")),
                (("ranking_options",), tool.get("ranking_options")),
            ),
        )

    @classmethod
    def code(cls, code: str, tool: Mapping[str, Any]) -> Wanted:
        container = tool.get("container")
        named = container if isinstance(container, str) else None
        return cls([code], _CODE, ((("language", "lang"), "python"), (("container_id", "session_id"), named)))


def fitted(schema: Mapping[str, Any], wanted: Wanted) -> list[dict[str, Any]]:
    """The arguments of each call: one for a tool that takes a list of texts, else one for each text.

    None where nothing in the schema can be the text. A property that is not named is taken for it where it is the only
    string that is required, or the only one there is.
    """
    given = schema.get("properties")
    properties = (
        {name: spec for name, spec in given.items() if isinstance(spec, dict)} if isinstance(given, dict) else {}
    )
    name = next((name for name in wanted.names if name in properties), None) or _only_text(schema, properties)
    if name is None:
        return []
    extras: dict[str, Any] = {}
    for names, value in wanted.extras:
        there = next((other for other in names if other in properties and other != name), None)
        if there and value and _takes(properties[there], value):
            extras[there] = _within(properties[there], value)
    kinds = _kinds(properties[name])
    if "array" in kinds and "string" not in kinds:
        return [{name: wanted.texts, **extras}]
    return [{name: text, **extras} for text in wanted.texts]


def _only_text(schema: Mapping[str, Any], properties: Mapping[str, dict[str, Any]]) -> str | None:
    texts = [name for name, spec in properties.items() if "string" in _kinds(spec)]
    required = schema.get("required")
    for names in ([name for name in texts if isinstance(required, list) and name in required], texts):
        if len(names) == 1:
            return names[0]
    return None


def _kinds(spec: Mapping[str, Any]) -> set[str]:
    """The JSON types that a property may have, alternatives included."""
    given = spec.get("type")
    kinds = {kind for kind in (given if isinstance(given, list) else [given]) if isinstance(kind, str)}
    for others in (spec.get("anyOf"), spec.get("oneOf")):
        for other in others if isinstance(others, list) else ():
            kinds |= _kinds(other) if isinstance(other, dict) else set()
    return kinds


def _takes(spec: Mapping[str, Any], value: Any) -> bool:
    """Whether the property is made for such a value; where it lists its values, only those are."""
    listed = spec.get("enum")
    if isinstance(listed, list):
        return value in listed
    return not _kinds(spec).isdisjoint(_KINDS[type(value)])


def _within(spec: Mapping[str, Any], value: Any) -> Any:
    """A number between the property's bounds."""
    if not isinstance(value, int):
        return value
    low, high = spec.get("minimum"), spec.get("maximum")
    value = max(value, low) if isinstance(low, int | float) else value
    return min(value, high) if isinstance(high, int | float) else value
