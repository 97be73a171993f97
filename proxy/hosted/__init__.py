"""Tools that run here: MCP servers, and what the operator bound to OpenAI's own tool types."""

from __future__ import annotations

import importlib
import logging
import os
from ipaddress import ip_network

from proxy.hosted.bindings import McpBinding, open_bindings
from proxy.hosted.box import Answer, Binding, Box, Hosted, Sessions
from proxy.hosted.guard import Allowed, Guard, Resolver
from proxy.hosted.resolver import SystemResolver
from proxy.hosted.servers import Servers
from proxy.settings import Settings

__all__ = ["Answer", "Binding", "Box", "Hosted", "open_hosted"]

log = logging.getLogger("statecar.hosted")

_SDK = ("mcp", "mcp_types", "httpx2", "httpcore2", "pydantic")
_EXTRA = "the extra statecar[mcp] is not installed: pip install '.[mcp]' in its repository"


def open_hosted(settings: Settings, resolve: Resolver | None = None) -> Hosted:
    """What the settings ask for. The MCP SDK, half a second and 35 MB, is loaded only where a server may be asked."""
    guard = None
    if settings.mcp_allow:
        private = tuple(map(ip_network, settings.mcp_private))
        guard = Guard(tuple(map(Allowed.read, settings.mcp_allow)), private, resolve or SystemResolver())
    servers = Servers(_pairs(settings.connector), _pairs(settings.connector_authorization), guard)
    sessions = _sessions(settings, guard) if servers else None
    missing = _EXTRA if servers and sessions is None else None
    if missing:
        log.error("MCP tools are configured, but %s", missing)
    return Hosted(
        servers, sessions, _bindings(settings, missing), settings.tool_timeout, settings.tool_output_limit, missing
    )


def _bindings(settings: Settings, missing: str | None) -> dict[str, Binding]:
    """Those that can run: without the SDK no MCP tool can."""
    bound = open_bindings(settings)
    return {type_: how for type_, how in bound.items() if not (missing and isinstance(how, McpBinding))}


def _pairs(entries: tuple[str, ...]) -> dict[str, str]:
    return {name: rest for name, _, rest in (entry.partition("=") for entry in entries)}


def _sessions(settings: Settings, guard: Guard | None) -> Sessions | None:
    """None where the SDK is not installed. It tells servers of traces as everything here does, whatever else is asked
    for: OpenTelemetry, which it loads, ends at the name of a format that is not installed.
    """
    os.environ["OTEL_PROPAGATORS"] = "tracecontext"
    try:
        mcp = importlib.import_module("proxy.hosted.mcp")
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in _SDK:
            raise
        return None
    sessions: Sessions = mcp.McpSessions(guard, settings.tool_timeout)
    return sessions
