"""A stand-in of SearXNG on 127.0.0.1, by its search API: GET /search?q=…&format=json.

async with SearXNG({"oslo": [page("a")]}) as searxng:
    ...                                            # searches of searxng.url
    assert searxng.queries == ["oslo"]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from tests.backend import serving


def page(name: str, **more: Any) -> dict[str, Any]:
    """A result, as SearXNG has it."""
    url = f"https://{name}.example/page"
    return {"url": url, "title": f"Page {name}", "content": f"About {name}.", "engine": "test", "score": 1.0} | more


class SearXNG:
    """``results``: by query, "*" for all others. ``queries``: all that came; ``down``: a status
    that is answered instead.
    """

    def __init__(self, results: Mapping[str, Sequence[dict[str, Any]]]) -> None:
        self.results = results
        self.queries: list[str] = []
        self.down = 0
        self.url = ""

    async def __aenter__(self) -> SearXNG:
        self._stack = AsyncExitStack()
        self.url = await self._stack.enter_async_context(serving(self._app, interface="asgi3"))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        await self._answer(Request(scope, receive))(scope, receive, send)

    def _answer(self, request: Request) -> Response:
        query = request.query_params.get("q", "")
        self.queries.append(query)
        if self.down:
            return PlainTextResponse("Sorry", status_code=self.down)
        if request.url.path != "/search" or request.query_params.get("format") != "json":
            return PlainTextResponse("Forbidden", status_code=403)
        found = list(self.results.get(query) or self.results.get("*") or ())
        rest = {"answers": [], "corrections": [], "infoboxes": [], "suggestions": [], "unresponsive_engines": []}
        return JSONResponse({"query": query, "number_of_results": 0, "results": found, **rest})
