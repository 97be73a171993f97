"""One turn: history, chat body, upstream round, events, saved. Whoever wants the events pulls them.

Long for its size mark because the order of these steps is one promise, and is read in one place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any

from proxy import ids
from proxy.errors import OVERFLOW, StatecarError, StoreUnavailable, UpstreamError, passed_on
from proxy.state import Draft, Item
from proxy.translate.compaction import Compaction, holds_more
from proxy.translate.dialects import Dialect
from proxy.translate.items import Event
from proxy.translate.request import can_stream, to_chat, wants_logprobs
from proxy.translate.response import shorten, skeleton
from proxy.translate.stream import ResponseStream
from proxy.translate.tools import plan
from proxy.translate.truncation import SHARES, shorter
from proxy.turn.asking import asked
from proxy.turn.compacting import compaction_item, summarized
from proxy.turn.context import TRIGGER, Context, context_of, minted_id
from proxy.turn.counting import size_of
from proxy.turn.round import events_of
from proxy.turn.services import Caller, Services, ShuttingDown

log = logging.getLogger("statecar.turn")

_DROPPED_TOLD = 20
"""Types a header names at most: front servers refuse long ones."""

_ENCRYPTED = "reasoning.encrypted_content"


class Turn:
    """The work of one create request. ``request``: as ``wire.create_response`` gives it.

    ``facts`` collects what the access log says of it: ids, status and token counts, never content. ``headers``: those
    of the upstream's answer that belong on ours, known when the first event comes.
    """

    def __init__(self, services: Services, request: dict[str, Any], caller: Caller) -> None:
        self.facts: dict[str, Any] = {"model": request["model"][:128]}
        self.headers: dict[str, str] = {}
        self._services, self._request, self._caller = services, request, caller
        self._streams = bool(request.get("stream"))
        self._stream: ResponseStream | None = None
        self._task: asyncio.Task[Any] | None = None
        self._stopped, self._interruptible = False, True

    # -- what an edge may call

    async def run(self) -> AsyncGenerator[list[Event], None]:
        """Batches of events, one per upstream read; the last event is terminal and carries the whole response.

        Raises StatecarError before the first event for a bad request, an unknown id, a refusing upstream or a store
        that is down; after it every failure becomes ``response.failed``. A plain request (no ``stream``) also gets a
        failure without any output as the error it is.
        """
        self._task = asyncio.current_task()
        async with AsyncExitStack() as stack:
            work = await self._begin(stack)
            stream = work.stream
            closing: list[Event] = []
            failure: StatecarError | None = None
            try:
                async with aclosing(self._round(work)) as batches:
                    async for events in batches:
                        self._interruptible = False  # while the edge sends, and at the end while we save
                        yield events
                        if self._stopped:
                            raise ShuttingDown
                        self._interruptible = True
                self._interruptible = False
                closing = stream.finish(int(self._services.now()), done=work.done)
                await self._save(work)
            except StatecarError as exc:
                failure = exc
            except asyncio.CancelledError:
                if not self._stopped:
                    raise
                asyncio.current_task().uncancel()  # type: ignore[union-attr]  # a coroutine runs in a task
                failure = ShuttingDown()
            except Exception:
                log.exception("a turn broke; response %s", stream.response["id"])
                failure = StatecarError("The server had an error while processing the request.")
            if failure:
                if not self._is_told(work, failure):
                    raise failure
                closing += await self._failed(work, failure)
            yield [*closing, stream.end()]
            self._note(stream)

    def begin(self) -> list[Event]:
        """The opening events before the upstream has answered, for an edge that cannot wait longer (wire §2.6)."""
        stream = self._stream
        return stream.start() if stream and not stream.started else []

    def keepalive(self) -> Event | None:
        """An event to send while nothing else comes; None when only a comment is safe (wire §9.9)."""
        return self._stream.keepalive() if self._stream else None

    def stop(self) -> None:
        """Ends the turn as failed, because the server ends: at once where it waits, else when the edge comes back."""
        if self._task and not self._stopped:
            self._stopped = True
            if self._interruptible:
                self._task.cancel()

    # -- context

    async def _begin(self, stack: AsyncExitStack) -> _Work:
        request, services = self._request, self._services
        storing = request.get("store", True)
        context = await context_of(request, services, self._caller, stack, storing=storing)
        response = skeleton(request, context.minter.own("resp"), int(services.now()))
        self.facts["response"] = response["id"]
        sealing = services.sealer is not None and _ENCRYPTED in request.get("include", ())
        self._stream = ResponseStream(
            response,
            lambda type_: minted_id(context.minter, type_),
            ids.new_call_id,
            call_ids=[item["call_id"] for item in (*context.past.items, *context.given) if "call_id" in item],
            think_tags=context.dialect.think_tags,
            logprobs=wants_logprobs(request),
            seal=context.seals.thought if sealing else None,
        )
        shares = iter(SHARES if request.get("truncation") == "auto" else ())
        work = _Work(context, context.dialect, self._stream, context.sent, shares)
        self._plan(work, context.dialect)
        return work

    def _plan(self, work: _Work, dialect: Dialect) -> None:
        """What becomes of the request's tools in a dialect; which of them are left out is told in a header."""
        work.dialect, work.stream.tools = dialect, plan(self._request, work.context.sent, dialect)
        if dropped := ", ".join(work.stream.tools.dropped[:_DROPPED_TOLD]):
            log.info("tools left out, as nothing here can run them: %s", dropped)
            self.facts["dropped_tools"] = self.headers["statecar-dropped-tools"] = dropped
        else:
            self.headers.pop("statecar-dropped-tools", None)
            self.facts.pop("dropped_tools", None)

    # -- compaction (wire §10.8)

    async def _is_due(self, work: _Work) -> bool:
        """Whether the context has passed a threshold of the request."""
        entries = self._request.get("context_management", ())
        thresholds = [entry["compact_threshold"] for entry in entries if "compact_threshold" in entry]
        if not thresholds or not holds_more(work.context.sent):
            return False
        size = await size_of(self._request, self._services, self._caller, work.context)
        return size is not None and size > min(thresholds)

    async def _compact(self, work: _Work) -> list[Event]:
        """Puts a summary in the place of what the model would see, as the first item of the output.

        Its events wait for the answer's, so that an answer refused early is an HTTP error all the same (wire §2.6).
        """
        context, stream = work.context, work.stream
        summary = await summarized(self._request, self._services, self._caller, context, users_stay=False)
        item = compaction_item(context, summary, users_stay=False)
        self.facts |= {"upstream": context.upstream.name, "compacted": True}
        work.compacted = not self._is_triggered
        work.whole = context.sent = context.followed_by(item)
        return stream.place(Compaction(len(stream.items), item, told=self._is_triggered), summary.stream)

    async def _compact_if_possible(self, work: _Work) -> list[Event] | None:
        """The same, where the turn can go on without: None when the model gives no summary."""
        try:
            return await self._compact(work)
        except UpstreamError as exc:
            log.warning("the context is not compacted: the upstream answered %d, %s", exc.status, exc.code)
            return None

    @property
    def _is_triggered(self) -> bool:
        return any(item["type"] == TRIGGER for item in self._request["input"][-1:])

    # -- upstream

    async def _round(self, work: _Work) -> AsyncGenerator[list[Event], None]:
        """The events of the upstream's answer; of a later call's, where the context had to be made shorter first."""
        if self._is_triggered:
            yield [*await self._compact(work), *self.begin()]
            work.stream.finish_reason, work.done = "stop", True
            return
        if await self._is_due(work):
            yield await self._compact_if_possible(work) or []
        while True:
            try:
                async with aclosing(self._call(work)) as batches:
                    async for events in batches:
                        yield events
                return
            except UpstreamError as exc:
                if exc.code != OVERFLOW or work.has_answer:
                    raise
                work.stream.again()
                told = await self._shorten(work)
                if told is None:
                    raise
                yield told

    async def _shorten(self, work: _Work) -> list[Event] | None:
        """Makes a context that was refused as too long shorter; gives the events of that, None when nothing helps."""
        if self._request.get("context_management") and work.context.sent is work.whole and holds_more(work.whole):
            if (events := await self._compact_if_possible(work)) is not None:
                return events
        less = shorter(work.whole, work.context.sent, work.shares)
        if less is None:
            return None
        work.context.sent = less
        self.facts["truncated_items"] = len(work.whole) - len(less)
        return []

    async def _call(self, work: _Work) -> AsyncGenerator[list[Event], None]:
        """One upstream call: its events, a batch per read."""
        repaired: list[str] = []

        def written(dialect: Dialect) -> dict[str, Any]:
            if dialect != work.dialect:
                self._plan(work, dialect)
            request, tools = self._request, work.stream.tools
            streamed = self._streams or (self._services.streams(dialect) and can_stream(request, tools, dialect))
            repaired.clear()
            return to_chat(request, work.context.sent, tools, dialect, stream=streamed, repaired=repaired)

        async with AsyncExitStack() as stack:
            reply = await asked(stack, self._services, self._caller, work.context, written)
            self.facts |= {"upstream": work.context.upstream.name, "repaired_calls": len(repaired) or None}
            self.headers |= passed_on(reply.headers)
            batches = await stack.enter_async_context(aclosing(events_of(reply, work.stream)))
            async for events in batches:
                yield events
            work.done = reply.ended

    # -- the end

    def _is_told(self, work: _Work, failure: StatecarError) -> bool:
        """Whether a failure is told as a failed response: when the stream has begun, or output would be lost."""
        if self._streams:
            return work.stream.started
        return work.has_answer and not isinstance(failure, StoreUnavailable)

    async def _save(self, work: _Work) -> None:
        if not self._request.get("store", True):
            return
        context, response = work.context, work.stream.response
        draft = Draft(
            id=response["id"],
            tenant=self._caller.tenant,
            status=response["status"],
            model=response["model"],
            created_at=response["created_at"],
            body=shorten(response),
            input=context.given,
            output=work.stream.stored_output(),
            past=context.past,
            append=response["status"] != "failed",
            minter=context.minter,
        )
        try:
            await self._services.state.responses.save(draft)
        except StatecarError as exc:
            self.facts["save_failed"] = True
            log.error("response %s is not saved: %s", draft.id, exc.message)
            raise

    async def _failed(self, work: _Work, failure: StatecarError) -> list[Event]:
        """Ends the response as failed and keeps it, as far as there is a store to keep it in."""
        work.stream.fail(failure)
        if not isinstance(failure, StoreUnavailable):
            try:
                await self._save(work)
            except StatecarError:
                pass  # logged; the client is told of the first failure
        return [work.stream.error_event(failure)] if self._services.late_errors == "both" else []

    def _note(self, stream: ResponseStream) -> None:
        usage = stream.response["usage"] or {}
        self.facts |= {
            "response_status": stream.response["status"],
            "input_tokens": usage.get("input_tokens"),
            "cached_tokens": usage.get("input_tokens_details", {}).get("cached_tokens"),
            "output_tokens": usage.get("output_tokens"),
            "reasoning_tokens": usage.get("output_tokens_details", {}).get("reasoning_tokens"),
            "usage_missing": stream.usage_missing and stream.response["status"] != "failed",
        }


@dataclass
class _Work:
    """What a turn works on. ``dialect``: the one its tools are planned for; ``whole``: what the model is to see, and
    ``shares`` of it are still to be tried where that is too long; ``compacted``: a compaction item stands in the output
    before the answer; ``done``: the upstream said that it was finished.
    """

    context: Context
    dialect: Dialect
    stream: ResponseStream
    whole: list[Item]
    shares: Iterator[float]
    compacted: bool = False
    done: bool = False

    @property
    def has_answer(self) -> bool:
        """Whether there is output that the request asked for."""
        return len(self.stream.items) > self.compacted
