"""A context made to fit its model: summed up where the request asks for that, or made shorter (wire §10.7, §10.8)."""

from __future__ import annotations

import logging
from typing import Any

from proxy.errors import UpstreamError
from proxy.translate.compaction import Compaction, holds_more
from proxy.translate.items import Event
from proxy.translate.stream import ResponseStream
from proxy.translate.truncation import SHARES, shorter
from proxy.turn.compacting import compaction_item, summarized
from proxy.turn.context import TRIGGER, Context
from proxy.turn.counting import size_of
from proxy.turn.services import Caller, Services

log = logging.getLogger("statecar.turn")


class Fitting:
    """What is done to ``context.sent`` in one turn. ``facts``: the turn's, for the access log.

    ``compacted``: a compaction item stands in the output before the answer.
    """

    def __init__(
        self,
        request: dict[str, Any],
        services: Services,
        caller: Caller,
        context: Context,
        stream: ResponseStream,
        facts: dict[str, Any],
    ) -> None:
        self.compacted = False
        self._request, self._services, self._caller = request, services, caller
        self._context, self._stream, self._facts = context, stream, facts
        self._whole = context.sent
        self._grown = 0
        self._shares = iter(SHARES if request.get("truncation") == "auto" else ())

    @property
    def is_triggered(self) -> bool:
        """Whether the request asks for a summary and nothing else."""
        return any(item["type"] == TRIGGER for item in self._request["input"][-1:])

    async def is_due(self) -> bool:
        """Whether the context has passed a threshold of the request."""
        entries = self._request.get("context_management", ())
        thresholds = [entry["compact_threshold"] for entry in entries if "compact_threshold" in entry]
        if not thresholds or not holds_more(self._context.sent):
            return False
        size = await size_of(self._request, self._stream.tools, self._services, self._caller, self._context)
        return size is not None and size > min(thresholds)

    async def compact(self) -> list[Event]:
        """Puts a summary in the place of what the model would see, as the first item of the output.

        Its events wait for the answer's, so that an answer refused early is an HTTP error all the same (wire §2.6).
        """
        context, stream = self._context, self._stream
        summary = await summarized(self._request, self._services, self._caller, context, users_stay=False)
        item = compaction_item(context, summary, users_stay=False)
        self._facts |= {"upstream": context.upstream.name, "compacted": True}
        self.compacted = not self.is_triggered
        self._whole = context.sent = context.followed_by(*stream.stored_output(), item)
        events = stream.place(Compaction(len(stream.items), item, told=self.is_triggered), summary.stream)
        self._grown = len(stream.items)
        return events

    def grow(self, most: int | None = None) -> None:
        """Lets the model see what the turn has put out since the last time. ``most``: items that it may see."""
        context, new = self._context, self._stream.stored_output()[self._grown : most]
        is_whole = context.sent is self._whole
        self._grown += len(new)
        self._whole = [*self._whole, *new]
        if any(item["type"] == "compaction" for item in new):  # of another process: what was before it is in it
            self._whole = context.followed_by(*self._stream.stored_output()[: self._grown])
        context.sent = self._whole if is_whole else [*context.sent, *new]

    async def compact_if_possible(self) -> list[Event] | None:
        """The same, where the turn can go on without: None when the model gives no summary."""
        try:
            return await self.compact()
        except UpstreamError as exc:
            log.warning("the context is not compacted: the upstream answered %d, %s", exc.status, exc.code)
            return None

    async def shorten(self) -> list[Event] | None:
        """Makes a context that was refused as too long shorter; gives the events of that, None when nothing helps."""
        whole, context = self._whole, self._context
        if self._request.get("context_management") and context.sent is whole and holds_more(whole):
            if (events := await self.compact_if_possible()) is not None:
                return events
        less = shorter(self._whole, context.sent, self._shares)
        if less is None:
            return None
        context.sent = less
        self._facts["truncated_items"] = len(self._whole) - len(less)
        return []
