"""What a request's MCP tools need and nobody may read: kept sealed with a run, for whoever goes on with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from proxy import codec
from proxy.seal import TOOLS, Sealer
from proxy.state import Run
from proxy.translate.tools import echo

_UNKEPT = "unkept"
"""Stands for credentials where nothing can seal them."""


def kept_credentials(request: dict[str, Any], sealer: Sealer | None, tenant: str) -> tuple[dict[str, Any], str]:
    """(the request without what its MCP tools need in secret, that as text that may be kept; "" for nothing)."""
    tools = request.get("tools") or []
    shown = [echo([tool])[0] if tool["type"] == "mcp" else tool for tool in tools]
    secret = {
        str(at): {key: value for key, value in tool.items() if shown[at].get(key) != value}
        for at, tool in enumerate(tools)
        if shown[at] != tool
    }
    if not secret:
        return request, ""
    sealed = sealer.seal(codec.dumps(secret).decode(), TOOLS, tenant) if sealer else _UNKEPT
    return {**request, "tools": shown}, sealed


def with_credentials(run: Run, sealer: Sealer | None) -> Run | None:
    """The run with what its tools need; None where that was not kept, or cannot be read."""
    if not run.secrets:
        return run
    text = sealer.open(run.secrets, TOOLS, run.tenant) if sealer else None
    if text is None:
        return None
    tools = list(run.request["tools"])
    for at, secret in codec.loads(text).items():
        tools[int(at)] = {**tools[int(at)], **secret}
    return replace(run, request={**run.request, "tools": tools})
