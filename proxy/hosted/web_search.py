"""Searching the web: SearXNG, Brave and Tavily over HTTP, all asked the same and read into the same results.

A provider makes a request of a search and reads results out of the answer; the rest is the same for all. What a
provider cannot filter is filtered here. No key and no query is ever in a message or a log line.
"""

from __future__ import annotations

import html
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import httpx

from proxy import codec
from proxy.hosted.box import Box
from proxy.hosted.countries import BRAVE_COUNTRIES, ENGLISH_NAMES
from proxy.hosted.hindrance import hindrance
from proxy.hosted.outcomes import outcome
from proxy.hosted.search import Failed, Found, Search, plain

log = logging.getLogger("statecar.hosted")

BODY_LIMIT = 4 * 1024 * 1024
"""Bytes of an answer."""

_QUERY_LIMIT = 400  # characters, of Brave and Tavily
_MOST = 20  # results that Brave and Tavily give at once
_REDIRECTS = 3


class Provider(Protocol):
    """One search service. ``name``: in messages."""

    name: str

    def request(self, search: Search) -> httpx.Request: ...

    def read(self, answer: Mapping[str, Any]) -> tuple[str, Iterator[Found]]:
        """(what the model is to read beside the results, the results). Raises KeyError or TypeError if it is none."""


class SearXNG:
    """A SearXNG of one's own. The query of ``base``, as ``?language=de&engines=bing``, goes along with every search."""

    name = "SearXNG"

    def __init__(self, base: str, key: str) -> None:
        parts = urlsplit(base)
        self._url = urlunsplit((parts.scheme, parts.netloc, f"{parts.path.rstrip('/')}/search", "", ""))
        self._fixed = dict(parse_qsl(parts.query))
        self._headers = {"accept": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})

    def request(self, search: Search) -> httpx.Request:
        params = {**self._fixed, "q": _within_sites(search), "format": "json"}
        return httpx.Request("GET", self._url, params=params, headers=_encoded(self._headers))

    def read(self, answer: Mapping[str, Any]) -> tuple[str, Iterator[Found]]:
        results = answer["results"]
        told = [plain(text.get("answer") if isinstance(text, dict) else text) for text in answer.get("answers") or ()]
        silent = [": ".join(map(str, engine)) for engine in answer.get("unresponsive_engines") or ()]
        if silent and not results:
            told.append(f"These search engines did not answer: {', '.join(silent)}.")
        return "\n".join(filter(None, told)), (_page(r, "content", "publishedDate") for r in results)


class Brave:
    """Brave's Search API. ``base``: its own, or that of a gateway in front of it."""

    name = "Brave"
    base = "https://api.search.brave.com"

    def __init__(self, base: str, key: str) -> None:
        self._url = f"{(base or self.base).rstrip('/')}/res/v1/web/search"
        self._headers = {"accept": "application/json", "x-subscription-token": key}

    def request(self, search: Search) -> httpx.Request:
        country = search.location.get("country", "").upper()
        params: dict[str, str | int] = {
            "q": _within_sites(search),
            "count": min(_MOST, search.count * 2 if search.domains or search.blocked else search.count),
            "text_decorations": "false",
            "result_filter": "web",
        }
        if country in BRAVE_COUNTRIES:
            params["country"] = country
        fields = {"city": "city", "region": "state-name", "country": "country", "timezone": "timezone"}
        place = {f"x-loc-{fields[key]}": value for key, value in search.location.items()}
        return httpx.Request("GET", self._url, params=params, headers=_encoded({**self._headers, **place}))

    def read(self, answer: Mapping[str, Any]) -> tuple[str, Iterator[Found]]:
        if "web" not in answer and answer["type"] != "search":
            raise KeyError("web")
        results = (answer.get("web") or {}).get("results") or ()
        return "", (_page(r, "description", "page_age", *(r.get("extra_snippets") or ())) for r in results)


class Tavily:
    """Tavily's search, at its basic depth. ``base``: its own, or that of a gateway in front of it."""

    name = "Tavily"
    base = "https://api.tavily.com"

    def __init__(self, base: str, key: str) -> None:
        self._url = f"{(base or self.base).rstrip('/')}/search"
        self._headers = {
            "accept": "application/json",
            "content-type": "application/json",
            "authorization": f"Bearer {key}",
        }

    def request(self, search: Search) -> httpx.Request:
        body: dict[str, Any] = {
            "query": search.query[:_QUERY_LIMIT],
            "max_results": min(_MOST, search.count),
            "search_depth": "basic",
        }
        if search.domains:
            body["include_domains"] = list(search.domains)
        if search.blocked:
            body["exclude_domains"] = list(search.blocked)
        if country := ENGLISH_NAMES.get(search.location.get("country", "").upper()):
            body["country"] = country
        return httpx.Request("POST", self._url, content=codec.dumps(body), headers=_encoded(self._headers))

    def read(self, answer: Mapping[str, Any]) -> tuple[str, Iterator[Found]]:
        return plain(answer.get("answer")), (_page(r, "content", "published_date") for r in answer["results"])


PROVIDERS: dict[str, type[SearXNG] | type[Brave] | type[Tavily]] = {
    "searxng": SearXNG,
    "brave": Brave,
    "tavily": Tavily,
}


def _encoded(headers: Mapping[str, str]) -> httpx.Headers:
    """Headers in UTF-8: names of places are no ASCII."""
    return httpx.Headers([(name.encode(), value.encode()) for name, value in headers.items()])


def _within_sites(search: Search) -> str:
    """The query with the allowed domains as operators, where they fit: results of others are left out all the same."""
    query = search.query[:_QUERY_LIMIT]
    sites = " OR ".join(f"site:{domain}" for domain in search.domains)
    asked = f"{query} ({sites})" if len(search.domains) > 1 else f"{query} {sites}" if sites else query
    return asked if len(asked) <= _QUERY_LIMIT else query


def _page(result: Mapping[str, Any], text: str, date: str, *more: Any) -> Found:
    """A result; one without a web address has none here either."""
    url, said = result.get("url"), [html.unescape(plain(part)) for part in (result.get(text), *more)]
    day = plain(result.get(date))[:10]
    return {
        "url": url if isinstance(url, str) and url.startswith(("http://", "https://")) else "",
        "title": html.unescape(plain(result.get("title"))),
        "text": " ".join(filter(None, [day and f"({day})", *said])),
    }


class WebSearch:
    """A provider with its connections. ``timeout``: seconds without a word; ``limit``: bytes of results."""

    def __init__(self, provider: Provider, timeout: float, limit: int) -> None:
        self.provider = provider
        self._timeout = timeout
        self._limit = limit
        self._client: httpx.AsyncClient | None = None

    async def run(self, box: Box, tool: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
        """The outcome of one search; one that fails says so and raises nothing."""
        began, where = time.monotonic(), self._name
        try:
            search = Search.read(tool, arguments)
            request = self.provider.request(search)
            where = f"{self._name}, {request.url.netloc.decode()}"
            said, found = self._understood(await self._answer(request), search)
        except Failed as exc:
            return exc.outcome(f"web_search at {where}")
        log.info("web_search at %s: %d results in %d ms", self._name, len(found), 1000 * (time.monotonic() - began))
        return outcome("\n\n".join(filter(None, [said, "" if found else "No results."])), found=found)

    async def aclose(self) -> None:
        if self._client:
            await self._client.aclose()

    @property
    def _name(self) -> str:
        return self.provider.name

    def _understood(self, answer: Mapping[str, Any], search: Search) -> tuple[str, list[Found]]:
        try:
            said, results = self.provider.read(answer)
            found = [result for result in results if result["url"]]
        except (KeyError, TypeError, AttributeError):
            raise Failed(f"The web search failed: {self._name} answered something else than results.") from None
        return said, search.fitting(found, self._limit - len(said.encode()))

    async def _answer(self, request: httpx.Request) -> Mapping[str, Any]:
        """The JSON object that the provider answers. Raises Failed."""
        if self._client is None:
            self._client = httpx.AsyncClient(timeout=self._timeout)  # loads certificates: at the first search
        try:
            for _ in range(_REDIRECTS + 1):
                response = await self._client.send(request, stream=True)
                try:
                    if response.next_request is None:
                        return self._object(response, await self._body(response))
                finally:
                    await response.aclose()
                request = self._redirected(request, response.next_request)
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            unmet = isinstance(exc, httpx.ConnectError | httpx.ConnectTimeout)
            how = f"cannot be reached{hindrance(exc)}" if unmet else "broke off its answer"
            raise Failed(f"The web search failed: {self._name} {how}.") from exc
        raise Failed(f"The web search failed: {self._name} redirects without end.")

    def _redirected(self, request: httpx.Request, to: httpx.Request) -> httpx.Request:
        """The request that a redirect asks for: never at another origin, which would be given the key and the query."""
        if (to.url.scheme, to.url.host, to.url.port) != (request.url.scheme, request.url.host, request.url.port):
            raise Failed(f"The web search failed: {self._name} redirects to another origin ({to.url.host}).")
        return to

    async def _body(self, response: httpx.Response) -> bytes:
        body = bytearray()
        async for data in response.aiter_bytes():
            body += data
            if len(body) > BODY_LIMIT:
                raise Failed(f"The web search failed: {self._name} answered more than {BODY_LIMIT} bytes.")
        return bytes(body)

    def _object(self, response: httpx.Response, body: bytes) -> Mapping[str, Any]:
        status = response.status_code
        if status != 200:
            raise Failed(f"The web search failed: {self._name} answered {status}{self._hint(status)}.", status)
        try:
            answer = codec.loads(body)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            kind = response.headers.get("content-type", "no type").partition(";")[0][:50]
            raise Failed(f"The web search failed: {self._name} answered {kind}, not a JSON object.")
        return answer

    def _hint(self, status: int) -> str:
        if status == 403 and isinstance(self.provider, SearXNG):
            return " (json must be among the search.formats of its settings.yml)"
        return {401: " (wrong key)", 403: " (wrong key)", 429: " (too many requests)"}.get(status, "")
