"""The upstream calls of a turn: one; one more where the context was too long; one more after tools that ran here."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any

from proxy.errors import OVERFLOW, InvalidRequest, StatecarError, UpstreamError, passed_on
from proxy.translate.dialects import Dialect
from proxy.translate.hosting import NOTHING
from proxy.translate.items import Event
from proxy.translate.request import can_stream, to_chat
from proxy.translate.tools import plan
from proxy.turn.asking import asked
from proxy.turn.hosting import HostedTools
from proxy.turn.rest import reached_limit
from proxy.turn.round import events_of
from proxy.turn.services import Caller, Services
from proxy.turn.work import Work

log = logging.getLogger("statecar.turn")

_DROPPED_TOLD = 20
"""Types a header names at most: front servers refuse long ones."""


class Rounds:
    """What a turn asks its upstream. ``facts``, ``headers``: the turn's. ``streams``: whether the upstream is to stream
    in a dialect also where the caller does not.
    """

    def __init__(
        self,
        services: Services,
        request: dict[str, Any],
        caller: Caller,
        facts: dict[str, Any],
        headers: dict[str, str],
        streams: Callable[[Dialect], bool],
    ) -> None:
        self._services, self._request, self._caller = services, request, caller
        self._facts, self._headers, self._streams = facts, headers, streams

    def check(self, work: Work) -> None:
        """Plans for the dialect that is known before the upstream is asked. Raises as ``plan`` does, and InvalidRequest
        for a tool that may not run here.
        """
        if work.hosted:
            work.hosted.check()
        self.plan(work, work.context.dialect)

    def plan(self, work: Work, dialect: Dialect) -> None:
        """What becomes of the request's tools in a dialect; which of them are left out is told in a header.

        Raises InvalidRequest for tools and choices that cannot be honoured.
        """
        request, hosting = self._request, NOTHING
        if work.hosted:
            hosting = work.hosted.hosting
            if not work.hosted.listed:
                request = {**request, "tool_choice": "auto"}  # what it names may be among what is not known yet
        work.dialect, work.stream.tools = dialect, plan(request, work.context.sent, dialect, hosting)
        if dropped := ", ".join(work.stream.tools.dropped[:_DROPPED_TOLD]):
            log.info("tools left out, as nothing here can run them: %s", dropped)
            self._facts["dropped_tools"] = self._headers["statecar-dropped-tools"] = dropped
        else:
            self._headers.pop("statecar-dropped-tools", None)
            self._facts.pop("dropped_tools", None)

    def of(
        self, work: Work, end: StatecarError | None, *, starts: bool, asks: bool
    ) -> AsyncGenerator[list[Event], None]:
        """All events of the turn's upstream calls, and of the tools that run between them; the rest as for ``one``."""
        if work.hosted:
            return self.many(work, work.hosted, end, starts=starts, asks=asks)
        return self.one(work, end, starts=starts, asks=asks)

    async def one(
        self, work: Work, end: StatecarError | None, *, starts: bool, asks: bool
    ) -> AsyncGenerator[list[Event], None]:
        """The events of the upstream's answer; of a later call's, where the context had to be made shorter first.

        ``end``: why there is to be none. ``starts``: the opening events wait for no upstream. ``asks``: False for a
        response without output. Raises as ``asked`` and ``events_of`` do.
        """
        stream, fitting = work.stream, work.fitting
        if end:
            raise end
        if starts and not stream.started:
            yield stream.start()
        if fitting.is_triggered or not asks:
            summary = await fitting.compact() if asks else []
            yield [*summary, *([] if stream.started else stream.start())]
            stream.finish_reason, work.done = "stop", True
            return
        if not work.rest and await fitting.is_due():
            yield await fitting.compact_if_possible() or []
        while True:
            items = len(stream.items)
            try:
                async with aclosing(self._call(work)) as batches:
                    async for events in batches:
                        yield events
                return
            except UpstreamError as exc:
                if exc.code != OVERFLOW or work.rest or len(stream.items) > items:
                    raise
                stream.again()
                told = await fitting.shorten()
                if told is None:
                    raise
                yield told

    async def many(
        self, work: Work, hosted: HostedTools, end: StatecarError | None, *, starts: bool, asks: bool
    ) -> AsyncGenerator[list[Event], None]:
        """The same, for a turn with tools that run here."""
        stream, fitting = work.stream, work.fitting
        if not end and asks and not fitting.is_triggered:
            if starts and not stream.started:
                yield stream.start()
            async with aclosing(hosted.opening()) as opening:
                async for events in opening:
                    yield events
            work.grow()
            try:
                self.plan(work, work.context.dialect)  # with what is known now
            except InvalidRequest as exc:
                raise hosted.failure or exc from None
        while True:
            async with aclosing(self.one(work, end, starts=starts, asks=asks)) as answer:
                async for events in answer:
                    yield events
            async with aclosing(hosted.between(done=work.done)) as tools:
                async for events in tools:
                    yield events
            if hosted.over:
                return
            work.rest, work.done = None, False
            stream.again()
            work.grow()

    async def _call(self, work: Work) -> AsyncGenerator[list[Event], None]:
        """One upstream call: its events, a batch per read."""
        repaired: list[str] = []
        request = self._request
        if work.hosted and work.hosted.rounds and (limit := request.get("max_output_tokens")) is not None:
            left = limit - work.stream.figures.output_tokens  # one limit for all rounds
            if left <= 0:
                yield work.stream.feed(reached_limit())
                return
            request = {**request, "max_output_tokens": left}

        def written(dialect: Dialect, *, whole: bool = False) -> dict[str, Any]:
            if dialect != work.dialect:
                self.plan(work, dialect)
            tools = work.stream.tools
            streamed = bool(request.get("stream")) or (self._streams(dialect) and can_stream(request, tools, dialect))
            repaired.clear()
            chat = to_chat(request, work.context.sent, tools, dialect, stream=streamed, repaired=repaired)
            return chat if whole or work.rest is None else work.rest.body(chat, dialect)

        if rest := work.rest:
            await rest.count(written(work.context.dialect, whole=True), self._services, self._caller, work.context)
            work.stream.told = rest.told
            if spent := rest.spent(self._request.get("max_output_tokens")):
                yield work.stream.feed(spent)
                return
        async with AsyncExitStack() as stack:
            reply = await asked(stack, self._services, self._caller, work.context, written)
            self._facts |= {"upstream": work.context.upstream.name, "repaired_calls": len(repaired) or None}
            self._headers |= passed_on(reply.headers)
            batches = await stack.enter_async_context(aclosing(events_of(reply, work.stream)))
            async for events in batches:
                yield events
            work.done = reply.ended
