"""Trying what is configured for hosted tools: every connector is listed, and the web searched once."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from proxy.doctor.checks import NO, OK, Verdict, short
from proxy.errors import StatecarError, ToolServerError
from proxy.hosted import Box, open_hosted
from proxy.settings import Settings

_BOUND = ("web_search", "file_search", "code_interpreter")
_QUERY = "weather"


async def tried_tools(settings: Settings) -> AsyncGenerator[tuple[str, Verdict]]:
    """(name, verdict) of each connector and each bound type."""
    hosted = open_hosted(settings)
    box = hosted.box("")
    try:
        listed: dict[str, list[str]] = {}
        for name in (entry.partition("=")[0] for entry in settings.connector):
            missing = hosted.missing
            verdict, listed[name] = ((NO, missing), []) if missing else await _listed(box, name)
            yield f"connector {name}", verdict
        for type_ in _BOUND:
            if how := getattr(settings, type_):
                yield type_, _bound(how, listed) if how.startswith("mcp:") else await _searched(box)
    finally:
        box.close()
        await hosted.aclose()


async def _listed(box: Box, name: str) -> tuple[Verdict, list[str]]:
    try:
        tools = await box.list({"type": "mcp", "server_label": name, "connector_id": name})
    except ToolServerError as exc:
        return (NO, exc.why), []
    except StatecarError as exc:
        return (NO, exc.message), []
    names = [tool["name"] for tool in tools]
    return (OK, short(f"{len(names)} tools: {', '.join(names)}")), names


def _bound(how: str, listed: dict[str, list[str]]) -> Verdict:
    connector, _, tool = how.removeprefix("mcp:").partition("/")
    return (OK, how) if tool in listed[connector] else (NO, f"{connector} lists no tool {tool!r}")


async def _searched(box: Box) -> Verdict:
    outcome = await box.run("web_search", {"type": "web_search"}, {"query": _QUERY})
    if outcome["error"]:
        return NO, outcome["error"]["message"]
    return OK, f"results for {_QUERY!r}: {len(outcome['found'])}"
