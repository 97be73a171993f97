"""The upstream calls of a turn: one; one more where the context was too long; one more after tools that ran here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any

from proxy.errors import OVERFLOW, InvalidRequest, StatecarError, UpstreamError
from proxy.refusals import passed_on
from proxy.translate.dialects import Dialect
from proxy.translate.hosting import NOTHING
from proxy.translate.items import Event
from proxy.translate.request import can_stream, to_chat
from proxy.translate.tools import plan
from proxy.turn.asking import asked
from proxy.turn.hosting import HostedTools
from proxy.turn.rest import reached_limit
from proxy.turn.round import Answer
from proxy.turn.services import Caller, Services
from proxy.turn.work import Work
from proxy.upstream import Reply

log = logging.getLogger("statecar.turn")

_DROPPED_TOLD = 20
"""Types a header names at most: front servers refuse long ones."""


class Rounds:
    """What a turn asks its upstream. ``facts``, ``headers``: the turn's. ``streams``: whether the upstream is to stream
    in a dialect also where the caller does not. ``limits``: headers that no upstream's replace.
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
        self.limits: dict[str, str] = {}

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
        response without output. Raises as ``asked`` and ``Answer.read`` do.
        """
        stream, fitting = work.stream, work.fitting
        if end:
            raise end
        if starts and not stream.started:
            yield stream.start()
        if fitting.is_triggered or not asks:
            yield await self._unasked(work, compacts=asks)
            return
        if not work.rest and await fitting.is_due():
            yield await fitting.compact_if_possible() or []
        while True:
            items = len(stream.items)
            try:
                if spent := await self._spent(work):
                    yield stream.feed(spent)
                    return
                async with AsyncExitStack() as stack:
                    reply = await self._asked(stack, work)
                    answer = Answer(reply, stream)
                    while events := await answer.read():
                        yield events
                    work.done = reply.ended
                    reply.is_cut = not reply.ended and not stream.has_finish
                return
            except UpstreamError as exc:
                if len(stream.items) > items:
                    raise
                yield await self._shorter(work, exc)

    async def many(
        self, work: Work, hosted: HostedTools, end: StatecarError | None, *, starts: bool, asks: bool
    ) -> AsyncGenerator[list[Event], None]:
        """The same, for a turn with tools that run here."""
        stream, fitting = work.stream, work.fitting
        if hosted.over and not end:
            yield hosted.ending()
            return
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

    async def _unasked(self, work: Work, *, compacts: bool) -> list[Event]:
        """The events of a response without an answer: a summary, or nothing."""
        summary = await work.fitting.compact() if compacts else []
        work.stream.finish_reason, work.done = "stop", True
        return [*summary, *([] if work.stream.started else work.stream.start())]

    async def _shorter(self, work: Work, failure: UpstreamError) -> list[Event]:
        """Makes the context shorter where that helps; what is told of it. Else raises the failure."""
        if failure.code != OVERFLOW or work.rest:
            raise failure
        work.stream.again()
        told = await work.fitting.shorten()
        if told is None:
            raise failure
        return told

    async def _spent(self, work: Work) -> dict[str, Any] | None:
        """The chunk that ends the answer where the limit of tokens is reached, so that no upstream is asked."""
        left, rest = self._tokens_left(work), work.rest
        if left is not None and left <= 0:
            return reached_limit()
        if rest is None:
            return None
        whole = self._written(work, work.context.dialect, [])
        await rest.count(whole, self._services, self._caller, work.context)
        work.stream.told = rest.told
        return rest.spent(self._request.get("max_output_tokens"))

    def _tokens_left(self, work: Work) -> int | None:
        """What is left of the request's limit, which is one for all rounds; None for no limit."""
        limit: int | None = self._request.get("max_output_tokens")
        if limit is None or not (work.hosted and work.hosted.rounds):
            return limit
        return limit - work.stream.figures.output_tokens

    async def _asked(self, stack: AsyncExitStack, work: Work) -> Reply:
        """The upstream's answer, open as long as ``stack`` is."""
        repaired: list[str] = []

        def written(dialect: Dialect) -> dict[str, Any]:
            chat = self._written(work, dialect, repaired)
            return chat if work.rest is None else work.rest.body(chat, dialect)

        try:
            stays = work.rest is not None
            reply = await asked(stack, self._services, self._caller, work.context, written, stays=stays)
        except asyncio.CancelledError:
            work.is_cut = True
            raise
        work.stream.keeps_model = work.context.model != self._request["model"]
        self._facts |= {"upstream": work.context.upstream.name, "repaired_calls": len(repaired) or None}
        self._headers |= passed_on(reply.headers) | self.limits
        return reply

    def _written(self, work: Work, dialect: Dialect, repaired: list[str]) -> dict[str, Any]:
        """The chat body of the whole answer. ``repaired``: becomes the calls whose arguments had to be made valid."""
        if dialect != work.dialect:
            self.plan(work, dialect)
        request, tools = self._request, work.stream.tools
        if (left := self._tokens_left(work)) is not None:
            request = {**request, "max_output_tokens": left}
        streamed = bool(request.get("stream")) or (self._streams(dialect) and can_stream(request, tools, dialect))
        repaired.clear()
        return to_chat(request, work.context.sent, tools, dialect, stream=streamed, repaired=repaired)
