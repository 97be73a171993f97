"""One turn: history, chat body, upstream round, events, saved. Whoever wants the events pulls them.

Long for its size mark because the order of these steps is one promise, and is read in one place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any

from proxy import ids
from proxy.errors import StatecarError, StoreUnavailable, UpstreamError, passed_on
from proxy.state import Draft, Item, Past
from proxy.translate.dialects import Dialect
from proxy.translate.items import Event
from proxy.translate.request import to_chat, wants_logprobs
from proxy.translate.response import shorten, skeleton
from proxy.translate.stream import ResponseStream
from proxy.translate.tools import ToolPlan, plan
from proxy.turn.asking import asked
from proxy.turn.context import input_of, minted_id, past_of
from proxy.turn.services import Caller, Services, ShuttingDown
from proxy.upstream import Reply, Upstream

log = logging.getLogger("statecar.turn")

USAGE_WAIT = 5.0
"""Seconds an upstream gets to send its usage after the finish reason (wire §11.5)."""


class Turn:
    """The work of one create request. ``request``: as ``wire.create_response`` gives it.

    ``facts`` collects what the access log says of it: ids, status and token counts, never content. ``headers``: those
    of the upstream's answer that belong on ours, known when the first event comes.
    """

    def __init__(self, services: Services, request: dict[str, Any], caller: Caller) -> None:
        self.facts: dict[str, Any] = {"model": request["model"]}
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
            context = await self._begin(stack)
            stream = context.stream
            closing: list[Event] = []
            failure: StatecarError | None = None
            try:
                async with aclosing(self._round(context)) as batches:
                    async for events in batches:
                        self._interruptible = False  # while the edge sends, and at the end while we save
                        yield events
                        if self._stopped:
                            raise ShuttingDown
                        self._interruptible = True
                self._interruptible = False
                closing = stream.finish(int(self._services.now()), done=context.done)
                await self._save(context)
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
                if not self._is_told(stream, failure):
                    raise failure
                closing += await self._failed(context, failure)
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

    async def _begin(self, stack: AsyncExitStack) -> _Context:
        request, services, caller = self._request, self._services, self._caller
        storing = request.get("store", True)
        past = await past_of(request, services, caller, stack, storing=storing)
        if storing:
            await services.state.check()  # before the model works for nothing
        minter = ids.Minter(past.tag)
        given = await input_of(request, past, minter, services, caller)
        upstream = services.pool.pick(request["model"], past.tag)
        dialect = await services.manners.of(upstream, request["model"])
        tools = plan(self._request, dialect)
        if tools.dropped:
            log.warning("tools left out, as nothing here can run them: %s", ", ".join(tools.dropped))
        if "context_management" in self._request:
            log.warning("context_management is not served yet: nothing is compacted")
        response = skeleton(self._request, minter.own("resp"), int(self._services.now()))
        self.facts["response"] = response["id"]
        self._stream = ResponseStream(
            response,
            lambda type_: minted_id(minter, type_),
            ids.new_call_id,
            allowed=tools.allowed,
            call_ids=[item["call_id"] for item in (*past.items, *given) if "call_id" in item],
            think_tags=dialect.think_tags,
            logprobs=wants_logprobs(self._request),
        )
        return _Context(past, given, minter, upstream, tools, self._stream)

    # -- upstream

    async def _round(self, context: _Context) -> AsyncGenerator[list[Event], None]:
        """One upstream call: its events, a batch per read."""
        async with AsyncExitStack() as stack:
            reply = await self._open(stack, context)
            self.headers = passed_on(reply.headers)
            batches = await stack.enter_async_context(aclosing(reply.batches()))
            async for batch in batches:
                yield self._feed(context.stream, batch)
                if context.stream.failure:
                    raise context.stream.failure
                if context.stream.finish_reason is not None:
                    yield await self._after_finish(context.stream, batches)
                    break
            context.done = reply.ended

    async def _open(self, stack: AsyncExitStack, context: _Context) -> Reply:
        def written(dialect: Dialect) -> dict[str, Any]:
            streamed = self._is_streamed_in(dialect)
            return to_chat(self._request, context.items, context.tools, dialect, stream=streamed)

        return await asked(stack, self._services, self._caller, context.upstream, self._request["model"], written)

    def _is_streamed_in(self, dialect: Dialect) -> bool:
        """Whether the upstream streams: when the client does, and where a plain call could not be stopped."""
        how = self._services.upstream_stream
        return self._streams or how == "always" or (how == "auto" and not dialect.plain_stops)

    def _feed(self, stream: ResponseStream, batch: list[dict[str, Any]]) -> list[Event]:
        """The events of one read. The stream begins with its first payload, unless that is an error (wire §2.6)."""
        events: list[Event] = []
        for chunk in batch:
            if not stream.started and not stream.is_error(chunk):
                events += stream.start()
            events += stream.feed(chunk)
            if stream.failure:
                break
        return events

    async def _after_finish(self, stream: ResponseStream, batches: AsyncIterator[list[dict[str, Any]]]) -> list[Event]:
        """Reads on for the usage, which may come after the finish reason, or never."""
        events: list[Event] = []
        try:
            async with asyncio.timeout(USAGE_WAIT):
                async for batch in batches:
                    events += self._feed(stream, batch)
        except TimeoutError:
            log.warning("the upstream neither ended its stream nor sent usage within %s s", USAGE_WAIT)
        except UpstreamError as exc:
            log.warning("the upstream broke off after its finish reason: %s", exc.message)
        return events

    # -- the end

    def _is_told(self, stream: ResponseStream, failure: StatecarError) -> bool:
        """Whether a failure is told as a failed response: when the stream has begun, or output would be lost."""
        if self._streams:
            return stream.started
        return bool(stream.items) and not isinstance(failure, StoreUnavailable)

    async def _save(self, context: _Context) -> None:
        if not self._request.get("store", True):
            return
        response = context.stream.response
        draft = Draft(
            id=response["id"],
            tenant=self._caller.tenant,
            status=response["status"],
            model=response["model"],
            created_at=response["created_at"],
            body=shorten(response),
            input=context.given,
            output=context.stream.stored_output(),
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

    async def _failed(self, context: _Context, failure: StatecarError) -> list[Event]:
        """Ends the response as failed and keeps it, as far as there is a store to keep it in."""
        context.stream.fail(failure)
        if not isinstance(failure, StoreUnavailable):
            try:
                await self._save(context)
            except StatecarError:
                pass  # logged; the client is told of the first failure
        return [context.stream.error_event(failure)] if self._services.late_errors == "both" else []

    def _note(self, stream: ResponseStream) -> None:
        usage = stream.response["usage"] or {}
        self.facts |= {
            "response_status": stream.response["status"],
            "input_tokens": usage.get("input_tokens"),
            "output_tokens": usage.get("output_tokens"),
            "usage_missing": stream.usage_missing,
        }


@dataclass
class _Context:
    """What a turn works on. ``given``: this request's items; ``done``: the upstream said that it was finished."""

    past: Past
    given: list[Item]
    minter: ids.Minter
    upstream: Upstream
    tools: ToolPlan
    stream: ResponseStream
    done: bool = False

    @property
    def items(self) -> list[Item]:
        """All that the model sees, oldest first."""
        return [*self.past.items, *self.given]
