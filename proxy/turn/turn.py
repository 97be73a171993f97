"""One turn: history, chat body, upstream round, events, saved. Whoever wants the events pulls them.

Long for its size mark because the order of these steps is one promise, and is read in one place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, suppress
from typing import Any

from proxy import ids, sse
from proxy.errors import RunCancelled, RunLost, StatecarError, StoreUnavailable
from proxy.state import Admission, Draft, Lease, Past, Run
from proxy.state import End as RunEnd
from proxy.translate.dialects import Dialect
from proxy.translate.items import Event
from proxy.translate.request import wants_logprobs
from proxy.translate.response import shorten, skeleton
from proxy.translate.stream import ResponseStream
from proxy.turn.admission import admit, note
from proxy.turn.context import Context, context_lost, context_of, minted_id, untold
from proxy.turn.credentials import kept_credentials
from proxy.turn.fitting import Fitting
from proxy.turn.hosting import HostedTools, runs_here
from proxy.turn.rest import Rest
from proxy.turn.resumed import Resumed, context_again, kept_headers, kept_values, patiently
from proxy.turn.rounds import Rounds
from proxy.turn.services import Caller, Services, ShuttingDown
from proxy.turn.stateless import HEADER
from proxy.turn.work import Work

log = logging.getLogger("statecar.turn")

_ENCRYPTED = "reasoning.encrypted_content"


class Turn:
    """The work of one create request. ``request``: as ``wire.create_response`` gives it.

    ``facts`` collects what the access log says of it: ids, status and token counts, never content. ``headers``: those
    of the upstream's answer that belong on ours, known when the first event comes. ``streams``: somebody wants the
    events, not only the last one's response. Of a turn that goes on when its client leaves: ``attended``: it has not;
    ``settle``: awaited before the response is saved. ``keyed``: an idempotency key stands for it.
    """

    def __init__(
        self,
        services: Services,
        request: dict[str, Any],
        caller: Caller,
        *,
        resumed: Resumed | None = None,
        unkept: bool = False,
        generates: bool = True,
    ) -> None:
        """``resumed``: the turn goes on with a run that another process began. ``unkept``: it would be stored if the
        store were not away, and says so. ``generates``: False for a response without output, to be continued (§13.5).
        """
        self.facts: dict[str, Any] = {"model": request["model"][:128]}
        self.headers: dict[str, str] = {}
        if unkept:
            self.facts["stateless"], self.headers[HEADER] = True, "true"
        self.lease: Lease | None = None
        self.saved = self.attended = False
        self.keyed = resumed is not None and resumed.run.keyed
        self.settle: Callable[[], Awaitable[None]] | None = None
        self.streams, self._generates = bool(request.get("stream")), generates
        self._services, self._request, self._caller, self._resumed = services, request, caller, resumed
        self._admission: Admission | None = None
        self._work: Work | None = None
        self._task: asyncio.Task[Any] | None = None
        self._ending: StatecarError | None = None
        self._interruptible = True

    @property
    def is_background(self) -> bool:
        """Whether nobody waits for its end."""
        return bool(self._request.get("background"))

    @property
    def is_logged(self) -> bool:
        """Whether its events are kept while it is a run: somebody wants them, or tools have run that must not again."""
        return self.streams or bool(self._work and self._work.hosted)

    @property
    def request_id(self) -> str:
        """Of the request that the turn answers; "" for none."""
        return self._caller.request_id

    # -- what an edge may call

    async def run(self) -> AsyncGenerator[list[Event], None]:
        """Batches of events, one per upstream read; the last event is terminal and carries the whole response.

        Raises StatecarError before the first event for a bad request, an unknown id, a refusing upstream or a store
        that is down; after it every failure becomes ``response.failed``. A plain request (no ``stream``) also gets a
        failure without any output as the error it is. A background response's first events come before an upstream is
        asked. Raises RunLost at any time when another process makes the run.
        """
        self._task = asyncio.current_task()
        # not kept in self, which it knows: a cycle would keep the whole context until the collector comes
        rounds = Rounds(self._services, self._request, self._caller, self.facts, self.headers, self._is_streamed)
        async with AsyncExitStack() as stack:
            stack.callback(self._forget)
            work = self._work = await self._begin(stack, rounds)
            stack.callback(self._leave)
            closing: list[Event] = []
            failure: StatecarError | None = None
            if not (self._resumed.telling.told if self._resumed else not self.is_background):
                self._interruptible = False
                yield work.stream.queue() if self.is_background else work.stream.start()
                self._task, self._interruptible = asyncio.current_task(), True  # from here on a task of its own pulls
            try:
                end = self._ending or (self._resumed.end if self._resumed else None)
                async with aclosing(
                    rounds.of(work, end, starts=self.lease is not None, asks=self._generates)
                ) as batches:
                    async for events in batches:
                        self._interruptible = False  # while the edge sends, and at the end while we save
                        yield events
                        if self._ending:
                            raise self._ending
                        self._interruptible = True
                self._interruptible = False
                closing = work.stream.finish(int(self._services.now()), done=work.done)
                closing.append(await self._end(work, closing))
            except (Exception, asyncio.CancelledError) as exc:
                if not self._has_failed(exc):
                    raise
                failure = self._failure(exc)
            if failure:
                told = await self._to_tell(work, failure)
                if told is None:
                    # its conversation is free, and no clock begins to tell it
                    self.lease = self._work = self._ending = None
                    try:
                        raise failure
                    finally:
                        del failure, work  # it knows this frame: both would wait for the collector, context and all
                closing = await self._failed(work, told, closing)
            yield closing
            self.facts |= work.facts(asked="upstream" in self.facts)

    def begin(self) -> list[Event]:
        """The opening events before the upstream has answered, for an edge that cannot wait longer (wire §2.6)."""
        stream = self._work.stream if self._work else None
        return stream.start() if stream and not stream.started else []

    def keepalive(self) -> Event | None:
        """An event to send while nothing else comes; None when only a comment is safe (wire §9.9)."""
        return self._work.stream.keepalive() if self._work else None

    def stop(self, why: StatecarError | None = None) -> None:
        """Ends the turn as failed, or for RunCancelled as cancelled: at once where it waits, else when the edge comes
        back. Without a reason it is that the server ends.
        """
        if not self._ending:
            self._ending = why or ShuttingDown()
            if self._task and self._interruptible:
                self._task.cancel()

    def as_run(self) -> Run:
        """What another process needs to go on, once the first events have come."""
        assert self._work, "the context is read before the first event"
        response, past, caller = self._work.stream.response, self._work.context.past, self._caller
        if self._work.context.upstream.has_key:
            caller = caller.without_key()
        request, secrets = kept_credentials(self._request, self._services.sealer, self._caller.tenant)
        return Run(
            id=response["id"],
            tenant=self._caller.tenant,
            created_at=response["created_at"],
            request={**request, "input": untold(request["input"])},
            given=self._work.context.given,
            headers=kept_headers(caller, self._services.sealer),
            lock=past.lock.token if past.lock else "",
            past=past.place,
            keyed=self.keyed,
            secrets=secrets,
            owner=self._caller.principal,
            quota=self._caller.grant.quota,
        )

    def as_past(self) -> Past:
        """What another turn continues from that goes on with this response, once it has ended."""
        assert self._work, "the context is read before the first event"
        return self._work.as_past()

    # -- context

    async def _begin(self, stack: AsyncExitStack, rounds: Rounds) -> Work:
        request, services, resumed = self._request, self._services, self._resumed
        if services.traced:
            began_by = self._caller.headers if resumed else None
            stack.enter_context(services.traced(self.facts, request, began_by))
        if self._caller.grant.quota and (self._generates or request.get("store", True)):
            await self._admit(stack, rounds)
        context = await self._context(stack)
        created_at = resumed.run.created_at if resumed else int(services.now())
        response = skeleton(request, context.minter.own("resp"), created_at)
        self.facts["response"] = response["id"]
        items = (*context.past.items, *context.given)
        sealing = services.sealer is not None and _ENCRYPTED in request.get("include", ())
        stream = ResponseStream(
            response,
            lambda type_: minted_id(context.minter, type_),
            ids.new_call_id,
            call_ids=[item["call_id"] for item in items if "call_id" in item],
            think_tags=context.dialect.think_tags,
            logprobs=wants_logprobs(request),
            seal=context.seals.thought if sealing else None,
            include=request.get("include", ()),
        )
        if services.hosted and services.hosted.types:  # also where this request brings no tool
            stream.learn(items)
        if resumed:
            stream.resume(resumed.telling, go_on=not resumed.end)
            context.minter.skip(len(stream.items))
        fitting = Fitting(request, services, self._caller, context, stream, self.facts)
        rest = Rest(resumed.telling) if resumed and stream.told else None
        work = Work(context, stream, fitting, rest=rest)
        if self._admission:
            stack.callback(self._note, work)
        if services.hosted and runs_here(request, items, services.hosted):
            kept = resumed.telling.kept if resumed else None
            work.hosted = HostedTools(services.hosted, services, request, context, stream, self._keep, kept)
            stack.callback(work.hosted.close)
        if not resumed:  # else what refuses its tools here is told in the response
            rounds.check(work)
        return work

    async def _admit(self, stack: AsyncExitStack, rounds: Rounds) -> None:
        stores, again = self._request.get("store", True), self._resumed is not None
        self._admission = await admit(stack, self._services, self._caller, stores=stores, again=again)
        rounds.limits = self._admission.headers
        self.headers |= rounds.limits

    def _note(self, work: Work) -> None:
        if self._admission:
            note(self._admission, work, asked="upstream" in self.facts, saved=self.saved)

    async def _keep(self, **kept: Any) -> None:
        """Keeps what only who goes on with the run needs."""
        if lease := self.lease:
            await patiently(lambda: self._services.state.runs.keep(lease, kept_values(**kept)))

    async def _context(self, stack: AsyncExitStack) -> Context:
        request, services, resumed = self._request, self._services, self._resumed
        if resumed is None:
            storing = request.get("store", True)
            return await context_of(request, services, self._caller, stack, storing=storing)
        try:
            return await patiently(
                lambda: context_again(
                    resumed.run, services, self._caller, stack, ends=bool(resumed.end or self._ending)
                )
            )
        except RunLost:
            raise
        except asyncio.CancelledError:
            if not self._ending:
                raise
            _current().uncancel()
        except StatecarError as exc:
            self._ending = self._ending or exc
        return context_lost(resumed.run, services, self._caller)

    def _is_streamed(self, dialect: Dialect) -> bool:
        """Whether the upstream is to stream for a caller who does not: a run's answer is kept as it comes."""
        return self.lease is not None or self.settle is not None or self._services.streams(dialect)

    # -- the end

    def _has_failed(self, exc: BaseException) -> bool:
        """Whether this is a failure of the turn: else another process makes the run, or the task that pulls is
        cancelled. Nothing is interrupted any more.
        """
        self._interruptible = False
        return self._ending is not None if isinstance(exc, asyncio.CancelledError) else not isinstance(exc, RunLost)

    def _failure(self, exc: BaseException) -> StatecarError:
        """What the turn fails with."""
        if isinstance(exc, asyncio.CancelledError):
            _current().uncancel()
            exc = self._ending or exc
        if isinstance(exc, StatecarError):
            return exc.with_traceback(None)  # which knows frames that know the failure
        log.error("a turn broke; response %s", self.facts["response"], exc_info=exc)
        return StatecarError("The server had an error while processing the request.")

    def _forget(self) -> None:
        """Nothing is left to stop. The task would be a cycle: it knows its failure, which knows the frames of this."""
        self._task = None

    def _leave(self) -> None:
        """A run that ends here without its response goes on elsewhere: the lock of its conversation waits for it."""
        lock = self._work.context.past.lock if self._work else None
        if lock and self.lease and not self.saved:
            lock.held = False

    async def _to_tell(self, work: Work, failure: StatecarError) -> StatecarError | None:
        """What a failed response tells: the stream has begun, output would be lost, nobody waits. None: it is raised.

        Raises RunLost when another process makes the run: then it has not failed.
        """
        if self.settle and not self.lease:
            with suppress(StatecarError):
                await self.settle()  # its beginning may be being told
            if not self.lease:
                return None  # it is no run yet, or could not become one
        if self.lease and (not self.attended or isinstance(failure, RunCancelled)):
            return failure
        if self.streams:
            return failure if work.stream.started else None
        if work.has_answer and not isinstance(failure, StoreUnavailable):
            return failure
        try:
            if self.lease:
                await self._services.state.runs.hold(self.lease)
        except RunCancelled as exc:
            return exc
        except StoreUnavailable:
            pass  # logged; the run is taken back once the store answers
        return None

    async def _end(self, work: Work, closing: list[Event]) -> Event:
        """The terminal event, once the response is saved with it."""
        if self.settle:
            await self.settle()
        end = work.stream.end()
        if self.lease:
            await patiently(lambda: self._save(work, [*closing, end]))
        else:
            await self._save(work, [*closing, end])
        if self._admission:  # before the client can ask for more
            self._note(work)
            await self._services.state.quotas.end(self._admission)
        return end

    async def _save(self, work: Work, events: list[Event]) -> None:
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
            append=response["status"] not in ("failed", "cancelled"),
            minter=context.minter,
            conversation=self._request.get("conversation"),
            owner=self._caller.principal,
            admission=self._admission,
        )
        if self.lease:
            told = list(map(sse.encode, events)) if self.streams else []
            draft.end = RunEnd(self.lease, events[0]["sequence_number"], told, self.keyed)
        try:
            await self._services.state.responses.save(draft)
        except (RunLost, RunCancelled):
            raise
        except StatecarError as exc:
            if self.lease and isinstance(exc, StoreUnavailable):
                raise  # it is tried again
            self.facts["save_failed"] = True
            log.error("response %s is not saved: %s", draft.id, exc.message)
            raise
        self.saved = True

    async def _failed(self, work: Work, failure: StatecarError, closing: list[Event]) -> list[Event]:
        """Ends the response as failed or cancelled and keeps it, as far as there is a store to keep it in."""
        cancelled = isinstance(failure, RunCancelled)
        work.stream.fail(None if cancelled else failure)
        if self._services.late_errors == "both" and not cancelled:
            closing.append(work.stream.error_event(failure))
        if self.lease is None and isinstance(failure, StoreUnavailable):
            return [*closing, work.stream.end()]
        try:
            return [*closing, await self._end(work, closing)]
        except RunLost:
            raise
        except RunCancelled as exc:
            return await self._failed(work, exc, closing)
        except StatecarError:  # logged; the client is told of the first failure
            return [*closing, work.stream.end()]


def _current() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None, "coroutines run in tasks"
    return task
