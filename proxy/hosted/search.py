"""A search as it is asked for, and its results: those that may be shown, once each, within bounds."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from proxy.hosted.outcomes import http_error, outcome

log = logging.getLogger("statecar.hosted")

Found = dict[str, Any]
"""A result: of the web {url, title, text}, of files {file_id, filename, score, text, attributes}."""

_SIZES = {"low": (5, 400), "medium": (10, 1000), "high": (20, 4000)}
"""``search_context_size`` to most results, and most characters of the text of each."""

_PLACE = ("city", "region", "country", "timezone")

_FRAME = 10
"""Bytes around a result when the model reads it."""


class Failed(Exception):
    """A search or another call that came to nothing; the message is for the model and the log, without secrets."""

    def __init__(self, message: str, code: int = 502) -> None:
        super().__init__(message)
        self.message = message
        self.code = code

    def outcome(self, what: str) -> dict[str, Any]:
        """The outcome of the call: the model reads why, and the operator too unless it is the model's fault.

        ``what``: runs the call here; for the operator.
        """
        if self.code != 400:
            log.warning("%s: %s", what, self.message)
        return outcome(self.message, http_error(self.code, self.message))


@dataclass(frozen=True)
class Search:
    """A search as asked for. ``domains``: empty for all; ``blocked``: none of these. ``location``: those given of city,
    region, country, timezone. ``count``: most results; ``size``: most characters of the text of each.
    """

    query: str
    domains: tuple[str, ...]
    blocked: tuple[str, ...]
    location: Mapping[str, str]
    count: int
    size: int

    @classmethod
    def read(cls, tool: Mapping[str, Any], arguments: Mapping[str, Any]) -> Search:
        """From the request's tool and the model's arguments. Raises Failed where these have no query."""
        query = arguments.get("query")
        if not isinstance(query, str) or not query.strip():
            raise Failed("The search was not made: its arguments must have a 'query', a text that is not empty.", 400)
        filters = tool.get("filters") or {}
        place = tool.get("user_location") or {}
        count, size = _SIZES.get(tool.get("search_context_size") or "", _SIZES["medium"])
        return cls(
            query=" ".join(query.split()),
            domains=tuple(map(_domain, filters.get("allowed_domains") or ())),
            blocked=tuple(map(_domain, filters.get("blocked_domains") or ())),
            location={key: text for key in _PLACE if (text := plain(place.get(key))) and text.isprintable()},
            count=count,
            size=size,
        )

    def fitting(self, found: Iterable[Found], limit: int) -> list[Found]:
        """The results of the domains that are allowed, each page once, cut to the bounds. ``limit``: bytes."""
        allowed = (result for result in _once(found) if self._allows(result["url"]))
        return bounded(allowed, self.count, self.size, limit)

    def _allows(self, url: str) -> bool:
        host = _host(url)
        return bool(host) and (not self.domains or _under(host, self.domains)) and not _under(host, self.blocked)


def _under(host: str, domains: Iterable[str]) -> bool:
    return any(host == domain or host.endswith(f".{domain}") for domain in domains)


def _domain(text: str) -> str:
    """A domain as it is compared; clients also write URLs."""
    return _host(text if "://" in text else f"//{text}")


def _host(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _once(found: Iterable[Found]) -> Iterator[Found]:
    seen: set[str] = set()
    for result in found:
        if result["url"] not in seen:
            seen.add(result["url"])
            yield result


def bounded(found: Iterable[Found], count: int, size: int, limit: int) -> list[Found]:
    """At most ``count`` results with texts of ``size`` characters, of ``limit`` bytes together."""
    kept: list[Found] = []
    for result in found:
        names = sum(_bytes(result.get(key)) for key in ("url", "title", "filename")) + _FRAME
        if len(kept) == count:
            break
        if names <= limit:
            text = _cut(result.get("text") or "", size, limit - names)
            limit -= names + _bytes(text)
            kept.append({**result, "text": text})
    return kept


def _cut(text: str, size: int, limit: int) -> str:
    if len(text) <= size and _bytes(text) <= limit:
        return text
    mark = "…"
    kept = text[: size - 1].encode("utf-8", "replace")[: max(limit - len(mark.encode()), 0)].decode("utf-8", "ignore")
    return kept.rstrip() + mark if kept else ""


def _bytes(text: Any) -> int:
    return len(str(text or "").encode("utf-8", "replace"))


def plain(text: Any) -> str:
    """A text on one line; empty for what is no text."""
    return " ".join(text.split()) if isinstance(text, str) else ""
