"""Events on their way out: numbered, in the order of their items, and none before the response begins."""

from __future__ import annotations

from collections.abc import Iterable

from proxy.translate.items import Event


class Outlet:
    """``sequence``: the number of the next event. ``placed``: those that are told when the response begins.

    Of an item that is held nothing is told before it is whole; until then the events of later items wait.
    """

    def __init__(self) -> None:
        self.sequence = 0
        self.placed: list[Event] = []
        self._held: list[int] = []
        self._waiting: list[Event] = []
        self._first_waiting = 0

    @property
    def first_held(self) -> int | None:
        """The index of the first item that has not been told, None when there is none."""
        return self._held[0] if self._held else None

    def hold(self, index: int) -> None:
        """The item's next event will be its first."""
        self._held.append(index)

    def place(self, events: Iterable[Event]) -> list[Event]:
        """Keeps events for the beginning of the response; none of them now."""
        self.placed += events
        return []

    def emit(self, events: Iterable[Event]) -> list[Event]:
        """The events that may be told now, those included that had to wait and need not any more, with their numbers.

        The only place that counts.
        """
        passing = list(events)
        if self._held or self._waiting:
            passing = self._in_order(passing)
        sequence = self.sequence
        for event in passing:
            event["sequence_number"] = sequence
            sequence += 1
        self.sequence = sequence
        return passing

    def _in_order(self, events: list[Event]) -> list[Event]:
        """Those of them that may be told now, and those that had waited for them."""
        passing = list(filter(self._may_pass, events))
        while waiting := self._waiting:
            self._waiting = []
            passing += filter(self._may_pass, waiting)
            if len(self._waiting) == len(waiting):
                break
        return passing

    def _may_pass(self, event: Event) -> bool:
        """Whether nothing before it has still to be told; else it waits."""
        index = event.get("output_index", -1)
        if (self._held and index > self._held[0]) or (self._waiting and index >= self._first_waiting):
            self._first_waiting = min(index, self._first_waiting) if self._waiting else index
            self._waiting.append(event)
            return False
        if self._held and index == self._held[0]:
            del self._held[0]
        return True
