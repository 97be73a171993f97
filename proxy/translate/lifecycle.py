"""A response's own events: it is created, queued, in progress, and over (wire §9.4, §9.5)."""

from __future__ import annotations

from collections.abc import Iterable

from proxy.errors import StatecarError
from proxy.translate.figures import Figures
from proxy.translate.items import Event, Item, OutputItem
from proxy.translate.outlet import Outlet
from proxy.translate.response import Response, snapshot, usage


class Lifecycle:
    """``response`` is at any time the Response object, ``items`` its output, ``figures`` what it has cost so far.

    ``started``: its first events have been told, or are being told. ``keeps_model``: it names the model as it was
    asked for, which is not how the upstream knows it.
    """

    def __init__(self, response: Response) -> None:
        self.response = response
        self.started = self.keeps_model = False
        self.items: list[OutputItem] = []
        self.figures = Figures()
        self._outlet = Outlet()
        self._emit = self._outlet.emit
        self._created = self._ended = False

    def queue(self) -> list[Event]:
        """The opening of a response that somebody will make: ``response.created`` and ``response.queued`` (§9.5)."""
        self.response["status"] = "queued"
        events = self._emit(map(self._lifecycle, ("created", "queued")))
        self._created = True
        return events

    def start(self) -> list[Event]:
        """``response.created`` and ``response.in_progress``, then what was placed before (wire §9.4)."""
        self.started = True
        self.response["status"] = "in_progress"
        told = ("in_progress",) if self._created else ("created", "in_progress")
        self._created = True
        return self._emit([*map(self._lifecycle, told), *self._outlet.placed])

    def keepalive(self) -> Event | None:
        """A repeated ``response.in_progress`` while nothing is written; None when only a comment is safe (§9.9)."""
        if not self.started or self.items or self._ended or self.response["status"] != "in_progress":
            return None
        return self._emit([self._lifecycle("in_progress")])[0]

    def fail(self, error: StatecarError | None) -> None:
        """Ends the response as failed, or without an error as cancelled; keeps what was written (wire §3.4, §9.5).

        What is open gets no more events, and what nobody was told of is forgotten.
        """
        self.items = self.items[: self._outlet.first_held]
        for item in self.items:
            if not item.closed:
                item.cut()
        self._settle("failed" if error else "cancelled")
        figures = self.figures.usages
        self.response.update(
            error=error.as_response_error() if error else None,
            incomplete_details=None,
            completed_at=None,
            usage=usage(*figures) if figures else None,
        )

    def end(self) -> Event:
        """The terminal event: completed, incomplete or failed, which a cancelled response's is too. The last one.

        Asked for again, after a failure to keep what it says, it has the same number.
        """
        self._ended = True
        status = self.response["status"]
        event = self._lifecycle("failed" if status == "cancelled" else status)
        event["sequence_number"] = self._outlet.sequence
        return event

    def error_event(self, error: StatecarError) -> Event:
        """A flat ``error`` event before ``end``, for clients that see no other failure; by option only (wire §9.8)."""
        told = error.as_response_error()
        event = {"type": "error", "sequence_number": 0, "code": told["code"], "message": told["message"], "param": None}
        return self._emit([event])[0]

    def stored_output(self) -> list[Item]:
        """The output items as they are kept."""
        return [item.stored() for item in self.items]

    def _settle(self, status: str) -> None:
        self.response["status"] = status
        self.response["output"] = [dict(item.item) for item in self.items]
        self.response["service_tier"] = self.figures.tier or "default"
        if not self.keeps_model:
            self.response["model"] = self.figures.model or self.response["model"]

    def _tell(self, events: Iterable[Event]) -> list[Event]:
        return self._emit(events) if self.started else self._outlet.place(events)

    def _lifecycle(self, name: str) -> Event:
        return {"type": f"response.{name}", "sequence_number": 0, "response": snapshot(self.response)}
