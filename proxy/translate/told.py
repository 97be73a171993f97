"""What a stream has told, read from its events: for whoever goes on with a response that another process began."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from proxy.translate.items import Event, Item, Message, OutputItem, public
from proxy.translate.tool_names import HOSTED_ITEMS

_PIECES = {
    "response.output_text.delta": ("content", "content_index", "text"),
    "response.refusal.delta": ("content", "content_index", "refusal"),
    "response.reasoning_text.delta": ("content", "content_index", "text"),
    "response.reasoning_summary_text.delta": ("summary", "summary_index", "text"),
    "response.function_call_arguments.delta": (None, None, "arguments"),
    "response.custom_tool_call_input.delta": (None, None, "input"),
    "response.mcp_call_arguments.delta": (None, None, "arguments"),
    "response.code_interpreter_call_code.delta": (None, None, "code"),
}
"""Delta events: the list and the index of the part they extend, None for the item itself, and the field."""

_PARTS = {
    "response.content_part": ("content", "content_index"),
    "response.reasoning_summary_part": ("summary", "summary_index"),
}


_RUN_HERE = ("mcp_call", *HOSTED_ITEMS.values())
"""Types of items whose calls are answered here."""

_WRITTEN = {
    "mcp_call": ("mcp_call_arguments", "arguments"),
    "code_interpreter_call": ("code_interpreter_call_code", "code"),
}
"""What of a call is told as it is written: its events, and the field."""

_Place = tuple[int, int, str | None, str]
"""Index of the item, of the part in it, the list of parts, the field."""


class Told(OutputItem):
    """An item that somebody else has written so far."""

    def __init__(
        self, index: int, item: Item, *, closed: bool, kinds: Collection[str] = (), kept: Item | None = None
    ) -> None:
        """Of a call that runs here ``kinds``: the types of events that have told of it, ``kept``: it as it is stored,
        if it has its outcome.
        """
        super().__init__(index, item)
        self.closed, self._kinds, self._kept = closed, kinds, kept

    @property
    def runs_here(self) -> bool:
        """Whether it is a call that is answered here."""
        return self.item["type"] in _RUN_HERE

    def stored(self) -> Item:
        return self._kept or self.item

    def ended(self, why: str) -> Iterator[Event]:
        """The events that are missing of a call that runs here: with its outcome, or with ``why`` it has none."""
        if self.closed or not self.runs_here:
            return
        kind, prefix = self.item["type"], f"response.{self.item['type']}"
        if kind in _WRITTEN:
            yield from self._written(*_WRITTEN[kind])
        if not self._kept:
            error = {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": why}]}
            read = {"error": error} if kind == "mcp_call" else {"x_upstream": {"output": why}}
            self._kept = {**self.item, "status": "failed", **read}
        self.item, self.closed = public(self._kept), True
        failed = self.item["status"] == "failed"
        last = f"{prefix}.{'failed' if failed else 'completed'}"
        if last not in self._kinds and (kind == "mcp_call" or not failed):
            yield self.at(last)
        yield self._whole("response.output_item.done")

    def _written(self, name: str, field: str) -> Iterator[Event]:
        if f"response.{name}.done" not in self._kinds:
            if not self.item[field] and field == "arguments":
                self.item[field] = "{}"
                yield self.at(f"response.{name}.delta", delta="{}")
            yield self.at(f"response.{name}.done", **{field: self.item[field]})

    def cut(self) -> None:
        super().cut()
        if self.item["type"] == "apply_patch_call":
            self.item["status"] = "in_progress"  # its status knows no "incomplete"


class Kept(NamedTuple):
    """What nobody was told and only who goes on needs. ``items``: by index, as they are stored, calls that have their
    outcome; ``rounds``: upstream calls that have ended, ``usages``: what those took that told it; ``last``: how many
    items there are when the client is to act on calls of the newest of them, else 0.
    """

    items: Mapping[int, Item] = MappingProxyType({})
    rounds: int = 0
    last: int = 0
    usages: Sequence[dict[str, Any]] = ()


class Tokens(NamedTuple):
    """How many have been told: ``whole`` of all the output, ``thought`` of its thoughts."""

    thought: int
    whole: int


class Telling:
    """Events, added up. ``sequence``: the number of the next one; ``began``: an upstream had taken the work up.

    ``kept``: what is known beside them.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.sequence = 0
        self.told, self.began, self.ended = False, False, False
        self.kept = Kept()
        self._items: list[Item] = []
        self._closed: set[int] = set()
        self._kinds: defaultdict[int, set[str]] = defaultdict(set)
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
    def items(self) -> list[Told]:
        """The output so far, what was unfinished with what had come of it."""
        return [
            Told(at, item, closed=at in self._closed, kinds=self._kinds.get(at, ()), kept=self.kept.items.get(at))
            for at, item in enumerate(self._items)
        ]

    @property
    def round_start(self) -> int:
        """The index of the first item that the last upstream call gave: what follows tools that ran here."""
        types = (*_RUN_HERE, "mcp_list_tools")
        return max((index + 1 for index, item in enumerate(self._items) if item["type"] in types), default=0)

    @property
    def is_whole(self) -> bool:
        """Whether all that upstream calls give was told: only outcomes of calls that run here and the end are left."""
        others = {index for index, item in enumerate(self._items) if item["type"] not in _RUN_HERE}
        return 0 < self.kept.last == len(self._items) and others <= self._closed

    @property
    def can_go_on(self) -> bool:
        """Whether another upstream call can follow: nothing of an answer was told, a plain text, or calls that run
        here; or none has to. What the client runs ends a turn, and its end may not have been told.
        """
        if self.is_whole:
            return True
        calls = [item["type"] for item in self._items if item["type"] not in _RUN_HERE]
        if any(type_.endswith("_call") or type_ == "mcp_approval_request" for type_ in calls):
            return False
        opened = self.round_start > 0 and self.round_start == len(self._items)
        return not self._items or opened or self.text is not None

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
        before = self._items[self.round_start :]
        if len(item["content"]) != 1 or any(item.get("type", "").endswith("_call") for item in before):
            return None
        part = item["content"][0]
        plain = (
            part["type"] == "output_text" and part["text"].strip() and not part["annotations"] and not part["logprobs"]
        )
        return Message.begun(last, item["id"], part["text"]) if plain else None

    @property
    def deltas(self) -> Tokens:
        """How many pieces the last upstream call's came in; most backends send each token as one."""
        return Tokens(self._thought, self._whole)

    def _add(self, event: Event) -> None:
        self.sequence, kind = event["sequence_number"] + 1, event["type"]
        if kind in _PIECES:
            self._extend(event, *_PIECES[kind])
        elif kind == "response.output_item.added":
            self._items.append(event["item"])
            self._begin_count(event["item"])
        elif kind == "response.output_item.done":
            self._items[event["output_index"]] = event["item"]
            self._closed.add(event["output_index"])
            self._begin_count(event["item"])
        elif (place := _PARTS.get(kind.rpartition(".")[0])) and kind.endswith((".added", ".done")):
            self._put(event, *place)
        elif kind == "response.output_text.annotation.added":
            part = self._items[event["output_index"]]["content"][event["content_index"]]
            part["annotations"].append(event["annotation"])
        elif "response" in event:
            self.told = True
            self.began = event["response"]["status"] != "queued"
            self.ended = kind in ("response.completed", "response.incomplete", "response.failed")
        if (index := event.get("output_index")) is not None and self._items[index]["type"] in _RUN_HERE:
            self._kinds[index].add(kind)

    def _begin_count(self, item: Item) -> None:
        """What was told before a call that runs here is no part of what comes after it."""
        if item["type"] in _RUN_HERE:
            self._thought = self._whole = 0

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
