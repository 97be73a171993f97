"""Traces: what ``tracing.Untraced`` does where they are on."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from starlette.types import ASGIApp

from proxy.observe.logs import at_work_in
from proxy.observe.spans import Spans, note_kind, open_exporter
from proxy.observe.traced_calls import Calls
from proxy.observe.traced_requests import Traced
from proxy.observe.tracing import StoreHeard, Untraced
from proxy.settings import Settings
from proxy.state import Lessons
from proxy.turn import Manners

__all__ = ["Traces", "open_exporter"]


class Traces(Untraced):
    """Wraps what it is given in what makes spans of it."""

    def __init__(self, settings: Settings) -> None:
        spans = self._spans = Spans(settings.store, open_exporter())
        self.turn, self.calls = spans.turn, Calls(spans)

    def served(self, app: ASGIApp, unseen: Collection[str]) -> ASGIApp:
        return Traced(app, self._spans, unseen)

    def store(self, heard: StoreHeard) -> StoreHeard:
        return self._spans.store(heard)

    def tool(self, heard: Callable[..., object]) -> Callable[..., object]:
        return self._spans.tool(heard)

    def manners(self, settings: Settings, lessons: Lessons) -> Manners:
        return _TracedManners(settings, lessons)

    def at_work_on_run(self, response: str, request_id: str) -> None:
        super().at_work_on_run(response, request_id)
        if trace_id := self._spans.trace_id():
            at_work_in(trace_id)

    def end(self) -> None:
        self._spans.end()

    async def close(self) -> None:
        await self._spans.close()


class _TracedManners(Manners):
    """Notes for the turn at work what its upstream is."""

    async def of(self, *args: Any, **kwargs: Any) -> Any:
        dialect = await super().of(*args, **kwargs)
        note_kind(dialect.kind)
        return dialect
