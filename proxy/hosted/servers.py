"""What an mcp tool of a request means: which server, by which transport, with what headers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from proxy.errors import InvalidRequest
from proxy.hosted.guard import Guard, Refused, target

STREAMABLE, SSE, MODERN = "streamable", "sse", "modern"
"""How a server is spoken with: streamable HTTP, the SSE of before 2025, streamable HTTP without sessions (2026)."""


@dataclass(frozen=True)
class Server:
    """An MCP server as a turn asks it. ``guarded``: a request named its address, not the operator.

    ``transport``: None finds out whether it speaks streamable HTTP or the SSE of before 2025.
    """

    label: str
    url: str = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    transport: str | None
    guarded: bool

    @property
    def host(self) -> str:
        """Its host and port: what may be logged of the URL."""
        return urlsplit(self.url).netloc.rpartition("@")[2]


@dataclass(frozen=True)
class Servers:
    """The operator's connectors, and what requests may name beside them.

    ``connectors``: name to URL, ``sse+`` in front of it for the old transport. ``tokens``: name to what is sent as its
    authorization. ``guard``: None where no request may name a URL.
    """

    connectors: Mapping[str, str]
    tokens: Mapping[str, str] = field(repr=False)
    guard: Guard | None

    def __bool__(self) -> bool:
        return bool(self.connectors or self.guard)

    def of(self, tool: Mapping[str, Any], place: str) -> Server:
        """The server of an mcp tool. Raises InvalidRequest for one that may not be asked; ``place``: as tools[0]."""
        label = str(tool.get("server_label"))
        if (name := tool.get("connector_id")) is not None:
            self._check_connector(name, tool, place)
            return self.connector(str(name), label, tool.get("authorization"))
        if self.guard is None:
            raise InvalidRequest(
                "MCP servers cannot be named by URL here: the operator allows hosts with --mcp-allow."
                + (f" Use a 'connector_id': {', '.join(sorted(self.connectors))}." if self.connectors else ""),
                param=f"{place}.server_url",
                code="unsupported_parameter",
            )
        try:
            at = target(str(tool.get("server_url")))
            self.guard.permit(at.host, at.port)
        except Refused as exc:
            raise InvalidRequest(f"'server_url' {exc}.", param=f"{place}.server_url", code="invalid_value") from None
        given = {str(name).lower(): str(value) for name, value in (tool.get("headers") or {}).items()}
        headers = given | _authorization(tool.get("authorization"))
        return Server(label, at.url, tuple(sorted(headers.items())), None, guarded=True)

    def connector(self, name: str, label: str, authorization: str | None = None) -> Server:
        """A connector by name. ``authorization``: the caller's own, which wins over the operator's."""
        url = self.connectors[name]
        transport = SSE if url.startswith("sse+") else None
        token = authorization or self.tokens.get(name)
        return Server(label, url.removeprefix("sse+"), tuple(_authorization(token).items()), transport, guarded=False)

    def _check_connector(self, name: Any, tool: Mapping[str, Any], place: str) -> None:
        if name not in self.connectors:
            known = f"It has {', '.join(sorted(self.connectors))}." if self.connectors else "It has none."
            raise InvalidRequest(
                f"This server has no connector {name!r}. {known}", param=f"{place}.connector_id", code="invalid_value"
            )
        if tool.get("headers"):
            raise InvalidRequest(
                "'headers' cannot be given with 'connector_id': what a connector is sent is the operator's. Use"
                " 'authorization' for a token of your own.",
                param=f"{place}.headers",
                code="unsupported_parameter",
            )


def _authorization(token: str | None) -> dict[str, str]:
    if not token:
        return {}
    return {"authorization": token if " " in token.strip() else f"Bearer {token.strip()}"}
