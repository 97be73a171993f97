"""Whether there are traces. OpenTelemetry is loaded only where they are on: nothing else knows that it exists."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection
from typing import Any

from starlette.types import ASGIApp

from proxy.observe.logs import at_work_on_run
from proxy.settings import Settings
from proxy.state import Lessons
from proxy.turn import Manners, TurnTraced
from proxy.upstream import Followed

StoreHeard = Callable[[str, float, bool], object]

_EXTRA = "the extra statecar[otel] is not installed: pip install '.[otel]' in its repository"


class Untraced:
    """What is wrapped where there are traces, as it is. ``turn``: follows turns; ``calls``: those of upstreams."""

    turn: TurnTraced | None = None
    calls: Followed | None = None

    def served(self, app: ASGIApp, unseen: Collection[str]) -> ASGIApp:
        """The application, with a span for every request but those of the paths ``unseen``."""
        return app

    def store(self, heard: StoreHeard) -> StoreHeard:
        """Who hears of the store's operations, and makes spans of them."""
        return heard

    def tool(self, heard: Callable[..., object]) -> Callable[..., object]:
        """Who hears of calls of tools that run here, and makes spans of them."""
        return heard

    def manners(self, settings: Settings, lessons: Lessons) -> Manners:
        """Manners that say what the upstream of a turn is."""
        return Manners(settings, lessons)

    def at_work_on_run(self, response: str, request_id: str) -> None:
        """As ``logs.at_work_on_run``, with the trace."""
        at_work_on_run(response, request_id)

    def end(self) -> None:
        """Sends what has not been sent, however long that takes."""

    async def close(self) -> None:
        """The same, as long as the end of a process may wait for it."""


def open_traces(settings: Settings) -> Untraced:
    """As the option says. Raises ValueError where they cannot be had, in words for whoever set that up."""
    if settings.traces == "off":
        return Untraced()
    traces: Untraced = _loaded().Traces(settings)
    return traces


def check_traces(settings: Settings) -> None:
    """Raises as ``open_traces`` does, and leaves nothing open."""
    open_traces(settings).end()


def _loaded() -> Any:
    try:
        return importlib.import_module("proxy.observe.traces")
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] != "opentelemetry":
            raise
        raise ValueError(_EXTRA) from None
