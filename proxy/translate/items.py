"""Output items while they are written: each knows the events that open, extend and close it (wire §9.3, §9.5).

Every event owns its data: parts and items are copied when they leave. ``sequence_number`` is filled in by the one
counter, ``ResponseStream._emit``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from proxy.translate.citations import Citations, Sources
from proxy.translate.reply import CONTENT, THOUGHTS
from proxy.translate.text import Halves

Event = dict[str, Any]
Item = dict[str, Any]
Seal = Callable[[str], str]
"""A whole thought to its opaque form."""


def public(item: Item) -> Item:
    """An item as clients see it: without what only the upstream must get back (wire §11.6 ``x_upstream``)."""
    return {k: v for k, v in item.items() if k != "x_upstream"} if "x_upstream" in item else item


class OutputItem:
    """One entry of ``response.output``. Its index and id are fixed when it opens and never looked up again."""

    def __init__(self, index: int, item: Item) -> None:
        self.index = index
        self.item = item
        self.closed = False

    @property
    def broken(self) -> bool:
        """Whether it cannot be used as it is when the reply is cut off, even if it is not the last item."""
        return False

    def at(self, type_: str, **fields: Any) -> Event:
        """An event of this item, placed by ``item_id`` and ``output_index``."""
        return {
            "type": type_,
            "sequence_number": 0,
            "item_id": self.item["id"],
            "output_index": self.index,
            **fields,
        }

    def open(self) -> Iterator[Event]:
        yield self._whole("response.output_item.added")

    def close(self, status: str) -> Iterator[Event]:
        """The events that end the item; afterwards ``item`` is final. ``status``: completed or incomplete."""
        self.closed = True
        self.item["status"] = status
        yield self._whole("response.output_item.done")

    def cut(self) -> None:
        """Ends the item without events, keeping what came: the stream failed (wire §9.5)."""
        self.closed = True
        self.item["status"] = "incomplete"

    def stored(self) -> Item:
        """The item as it is kept; may hold more than clients see."""
        return self.item

    def _whole(self, type_: str) -> Event:
        return {"type": type_, "sequence_number": 0, "output_index": self.index, "item": dict(self.item)}


class Message(OutputItem):
    """An assistant message: text parts, refusal parts, in the order they came."""

    spelled = CONTENT

    def __init__(self, index: int, id_: str) -> None:
        shell = {"id": id_, "type": "message", "status": "in_progress", "role": "assistant", "content": []}
        super().__init__(index, shell)
        self._parts: list[Item] = []
        self._kind = ""
        self._pieces: list[str] = []
        self._halves = Halves()
        self._annotations: list[Item] = []
        self._logprobs: list[Item] = []
        self._sources: Sources | None = None
        self._citations: Citations | None = None

    def cite(self, sources: Sources) -> None:
        """What its text may cite. Of a text that has begun, only what comes is looked at."""
        self._sources = sources
        if self._kind:
            self._citations = Citations(sources)
            self._citations.feed("".join(self._pieces))

    @classmethod
    def begun(cls, index: int, id_: str, text: str) -> Message:
        """A message in the middle of its first text part, of which so much has been told."""
        message = cls(index, id_)
        message._kind, message._pieces = "output_text", [text]
        return message

    def more(self, piece: str) -> list[Event]:
        return self.text(piece, [])

    def many(self, pieces: list[str]) -> list[Event]:
        """``more`` for each of them, once it was called last; none holds half a character."""
        if self._citations or self._halves.held:
            return [event for piece in pieces for event in self.more(piece)]
        self._pieces += pieces
        return [self._told(piece, []) for piece in pieces if piece]

    def text(self, delta: str, logprobs: list[Item]) -> list[Event]:
        events = [] if self._kind == "output_text" else list(self._switch("output_text"))
        self._logprobs += logprobs
        if delta := self._halves.feed(delta):
            self._pieces.append(delta)
            events.append(self._told(delta, logprobs))
            for annotation in self._citations.feed(delta) if self._citations else ():
                events += self.annotation(annotation)
        return events

    def _told(self, text: str, logprobs: list[Item]) -> Event:
        return {  # as ``_in_part`` would make it: 0.3 us instead of 0.9
            "type": "response.output_text.delta",
            "sequence_number": 0,
            "item_id": self.item["id"],
            "output_index": self.index,
            "content_index": len(self._parts),
            "delta": text,
            "logprobs": logprobs,
        }

    def refusal(self, delta: str) -> Iterator[Event]:
        yield from self._switch("refusal")
        if delta := self._halves.feed(delta):
            self._pieces.append(delta)
            yield self._in_part("response.refusal.delta", delta=delta)

    def annotation(self, annotation: Item) -> Iterator[Event]:
        yield from self._switch("output_text")
        yield self._in_part(
            "response.output_text.annotation.added",
            annotation_index=len(self._annotations),
            annotation=annotation,
        )
        self._annotations.append(annotation)

    def close(self, status: str) -> Iterator[Event]:
        if not self._kind:
            yield from self._switch("output_text")
        yield from self._end_part()
        self.item["content"] = self._parts
        yield from super().close(status)

    def cut(self) -> None:
        self._pieces.append(self._halves.flush())
        self._parts.append(self._part())  # one is open as long as the message is
        self.item["content"] = self._parts
        super().cut()

    def _switch(self, kind: str) -> Iterator[Event]:
        if kind == self._kind:
            return
        yield from self._end_part()
        self._kind, self._pieces, self._annotations, self._logprobs = kind, [], [], []
        self._citations = Citations(self._sources) if self._sources and kind == "output_text" else None
        yield self._in_part("response.content_part.added", part=self._part())

    def _end_part(self) -> Iterator[Event]:
        if not self._kind:
            return
        if rest := self._halves.flush():
            self._pieces.append(rest)
            delta = {"delta": rest, "logprobs": []} if self._kind == "output_text" else {"delta": rest}
            yield self._in_part(f"response.{self._kind}.delta", **delta)
        for annotation in [*self._citations.feed(rest), *self._citations.flush()] if self._citations else ():
            yield from self.annotation(annotation)
        part = self._part()
        if self._kind == "output_text":
            yield self._in_part("response.output_text.done", text=part["text"], logprobs=part["logprobs"])
        else:
            yield self._in_part("response.refusal.done", refusal=part["refusal"])
        yield self._in_part("response.content_part.done", part=part)
        self._parts.append(part)
        self._kind = ""

    def _part(self) -> Item:
        text = "".join(self._pieces)
        if self._kind == "refusal":
            return {"type": "refusal", "refusal": text}
        return {
            "type": "output_text",
            "annotations": list(self._annotations),
            "logprobs": list(self._logprobs),
            "text": text,
        }

    def _in_part(self, type_: str, **fields: Any) -> Event:
        return self.at(type_, content_index=len(self._parts), **fields)


class Reasoning(OutputItem):
    """The model's thought, shown raw: one ``reasoning_text`` part."""

    spelled = THOUGHTS

    def __init__(self, index: int, id_: str, seal: Seal | None = None) -> None:
        shell = {"id": id_, "type": "reasoning", "status": "in_progress", "summary": [], "content": []}
        super().__init__(index, shell)
        self._seal = seal
        self._pieces: list[str] = []
        self._halves = Halves()

    def open(self) -> Iterator[Event]:
        yield from super().open()
        yield self.at("response.content_part.added", content_index=0, part=self._part())

    def more(self, piece: str) -> Iterator[Event]:
        return self.delta(piece, None)

    def many(self, pieces: list[str]) -> list[Event]:
        """``more`` for each of them, once it was called last; none holds half a character."""
        if self._halves.held:
            return [event for piece in pieces for event in self.more(piece)]
        self._pieces += pieces
        return [self.at("response.reasoning_text.delta", content_index=0, delta=piece) for piece in pieces if piece]

    def delta(self, text: str, part: int | None) -> Iterator[Event]:
        """``part``: the upstream's number of the thought, if it counts them; raw text is one part all the same."""
        if text := self._halves.feed(text):
            self._pieces.append(text)
            yield self.at("response.reasoning_text.delta", content_index=0, delta=text)

    def close(self, status: str) -> Iterator[Event]:
        if rest := self._halves.flush():
            self._pieces.append(rest)
            yield self.at("response.reasoning_text.delta", content_index=0, delta=rest)
        part = self._part()
        yield self.at("response.reasoning_text.done", content_index=0, text=part["text"])
        yield self.at("response.content_part.done", content_index=0, part=part)
        self.item["content"] = [part]
        if self._seal:
            self.item["encrypted_content"] = self._seal(part["text"])
        yield from super().close(status)

    def cut(self) -> None:
        self._pieces.append(self._halves.flush())
        self.item["content"] = [self._part()]
        super().cut()

    def _part(self) -> Item:
        return {"type": "reasoning_text", "text": "".join(self._pieces)}


class ReasoningSummary(OutputItem):
    """The same thought presented as summary parts, when ``reasoning.summary`` was asked for (wire §8.4)."""

    spelled = THOUGHTS

    def __init__(self, index: int, id_: str, seal: Seal | None = None) -> None:
        super().__init__(index, {"id": id_, "type": "reasoning", "status": "in_progress", "summary": []})
        self._seal = seal
        self._parts: list[Item] = []
        self._number: int | None = None
        self._open = False
        self._pieces: list[str] = []
        self._halves = Halves()

    def more(self, piece: str) -> Iterator[Event]:
        return self.delta(piece, None)

    def many(self, pieces: list[str]) -> list[Event]:
        """``more`` for each of them, once it was called last; none holds half a character."""
        return [event for piece in pieces for event in self.more(piece)]

    def delta(self, text: str, part: int | None) -> Iterator[Event]:
        if self._open and part is not None and self._number is not None and part != self._number:
            yield from self._end_part()
        if not self._open:
            self._open, self._pieces = True, []
            yield self._in_part("response.reasoning_summary_part.added", part=self._part())
        self._number = part if part is not None else self._number
        if text := self._halves.feed(text):
            self._pieces.append(text)
            yield self._in_part("response.reasoning_summary_text.delta", delta=text)

    def close(self, status: str) -> Iterator[Event]:
        yield from self._end_part()
        self.item["summary"] = self._parts
        if self._seal:
            self.item["encrypted_content"] = self._seal("".join(part["text"] for part in self._parts))
        yield from super().close(status)

    def cut(self) -> None:
        self._pieces.append(self._halves.flush())
        self._parts.append(self._part())  # one is open as long as the item is
        self.item["summary"] = self._parts
        super().cut()

    def _end_part(self) -> Iterator[Event]:
        if not self._open:
            return
        if rest := self._halves.flush():
            self._pieces.append(rest)
            yield self._in_part("response.reasoning_summary_text.delta", delta=rest)
        part = self._part()
        yield self._in_part("response.reasoning_summary_text.done", text=part["text"])
        yield self._in_part("response.reasoning_summary_part.done", part=part)
        self._parts.append(part)
        self._open = False

    def _part(self) -> Item:
        return {"type": "summary_text", "text": "".join(self._pieces)}

    def _in_part(self, type_: str, **fields: Any) -> Event:
        return self.at(type_, summary_index=len(self._parts), **fields)
