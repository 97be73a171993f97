"""What a stream has told, read from its events: for whoever goes on with a response that another process began."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from proxy.translate.items import Event, Item, Message, OutputItem

_PIECES = {
    "response.output_text.delta": ("content", "content_index", "text"),
    "response.refusal.delta": ("content", "content_index", "refusal"),
    "response.reasoning_text.delta": ("content", "content_index", "text"),
    "response.reasoning_summary_text.delta": ("summary", "summary_index", "text"),
    "response.function_call_arguments.delta": (None, None, "arguments"),
    "response.custom_tool_call_input.delta": (None, None, "input"),
}
"""Delta events: the list and the index of the part they extend, None for the item itself, and the field."""

_PARTS = {
    "response.content_part": ("content", "content_index"),
    "response.reasoning_summary_part": ("summary", "summary_index"),
}


_Place = tuple[int, int, str | None, str]
"""Index of the item, of the part in it, the list of parts, the field."""


class Told(OutputItem):
    """An item that somebody else has written so far."""

    def __init__(self, index: int, item: Item, *, closed: bool) -> None:
        super().__init__(index, item)
        self.closed = closed

    def cut(self) -> None:
        super().cut()
        if self.item["type"] == "apply_patch_call":
            self.item["status"] = "in_progress"  # its status knows no "incomplete"


class Tokens(NamedTuple):
    """How many have been told: ``whole`` of all the output, ``thought`` of its thoughts."""

    thought: int
    whole: int


class Telling:
    """Events, added up. ``sequence``: the number of the next one; ``began``: an upstream had taken the work up."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.sequence = 0
        self.told, self.began, self.ended = False, False, False
        self._items: list[Item] = []
        self._closed: set[int] = set()
        self._pieces: dict[_Place, list[str]] = {}
        self._thought = self._whole = 0
        self.add(events)

    def add(self, events: Iterable[Event]) -> None:
        """Goes on with the next ones."""
        for event in events:
            self._add(event)
        for (index, number, where, field), pieces in self._pieces.items():
            if index not in self._closed:
                holder = self._items[index][where][number] if where else self._items[index]
                holder[field] += "".join(pieces)
        self._pieces.clear()

    @property
    def items(self) -> list[OutputItem]:
        """The output so far, what was unfinished with what had come of it."""
        return [Told(index, item, closed=index in self._closed) for index, item in enumerate(self._items)]

    @property
    def text(self) -> Message | None:
        """The message that was being written, to be written on; None when that was no plain text.

        It must be the last item, open, of one part, not blank, and nothing but text: then what a model says next
        follows it directly.
        """
        last = len(self._items) - 1
        if last < 0 or self._closed != set(range(last)) or self._items[last]["type"] != "message":
            return None
        item = self._items[last]
        if len(item["content"]) != 1 or any(item.get("type", "").endswith("_call") for item in self._items):
            return None
        part = item["content"][0]
        plain = (
            part["type"] == "output_text" and part["text"].strip() and not part["annotations"] and not part["logprobs"]
        )
        return Message.begun(last, item["id"], part["text"]) if plain else None

    @property
    def deltas(self) -> Tokens:
        """How many pieces it came in; most backends send each token as one."""
        return Tokens(self._thought, self._whole)

    def _add(self, event: Event) -> None:
        self.sequence, kind = event["sequence_number"] + 1, event["type"]
        if kind in _PIECES:
            self._extend(event, *_PIECES[kind])
        elif kind == "response.output_item.added":
            self._items.append(event["item"])
        elif kind == "response.output_item.done":
            self._items[event["output_index"]] = event["item"]
            self._closed.add(event["output_index"])
        elif (place := _PARTS.get(kind.rpartition(".")[0])) and kind.endswith((".added", ".done")):
            self._put(event, *place)
        elif kind == "response.output_text.annotation.added":
            part = self._items[event["output_index"]]["content"][event["content_index"]]
            part["annotations"].append(event["annotation"])
        elif "response" in event:
            self.told = True
            self.began = event["response"]["status"] != "queued"
            self.ended = kind in ("response.completed", "response.incomplete", "response.failed")

    def _extend(self, event: Event, where: str | None, index: str | None, field: str) -> None:
        at = (event["output_index"], event[index] if index else 0, where, field)
        self._pieces.setdefault(at, []).append(event["delta"])
        self._whole += 1
        self._thought += self._items[at[0]]["type"] == "reasoning"
        if logprobs := event.get("logprobs"):
            self._items[at[0]]["content"][at[1]]["logprobs"] += logprobs

    def _put(self, event: Event, where: str, index: str) -> None:
        parts = self._items[event["output_index"]][where]
        parts[event[index] :] = [event["part"]]
        for at in [at for at in self._pieces if at[:3] == (event["output_index"], event[index], where)]:
            del self._pieces[at]  # they are in it
