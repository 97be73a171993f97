"""What the tests of hosted tools share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from proxy.hosted import Box, Hosted, open_hosted
from proxy.settings import Settings


@asynccontextmanager
async def hosted(resolve: Any = None, **options: Any) -> AsyncIterator[Hosted]:
    """What the options ask for; requests may name 127.0.0.1 unless they say otherwise."""
    settings = Settings(upstream="demo", **{"mcp_allow": ("127.0.0.1",), "tool_timeout": 20.0} | options)
    served = open_hosted(settings, resolve)
    try:
        yield served
    finally:
        await served.aclose()


@asynccontextmanager
async def box(resolve: Any = None, **options: Any) -> AsyncIterator[Box]:
    """The tools of a turn."""
    async with hosted(resolve, **options) as served:
        turn = served.box("caller")
        try:
            yield turn
        finally:
            turn.close()


def at(url: str, **rest: Any) -> dict[str, Any]:
    """The mcp tool of a request that names a URL."""
    return {"type": "mcp", "server_label": "docs", "server_url": url, **rest}
