"""All the runs of this process: begun here or taken up, held, cancelled, handed over when the process ends."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

from proxy.errors import EncryptionKeyMissing, RunCancelled, RunLost, StatecarError, StoreUnavailable
from proxy.runs.detached import Detached
from proxy.runs.keyed import KeyedRequest
from proxy.runs.reading import Reading
from proxy.runs.running import ENDS, Running
from proxy.state import Claim, Lease, Run, Runs
from proxy.translate.items import Event
from proxy.turn import (
    RESTARTED,
    Caller,
    Resumed,
    Services,
    ShuttingDown,
    Turn,
    caller_of,
    kept_of,
    patiently,
    with_credentials,
)

log = logging.getLogger("statecar.runs")

_TAKEOVERS = 2
"""How often a run is taken up again after its process has died."""

_LOOK = 0.05
"""Seconds between looks whether another process has ended the run that is to be cancelled."""

_PAUSE = 0.5
"""Seconds until a store that was away is asked again."""

_BACK = 2.0
"""Seconds beyond a lease in which those that hold runs find a store that was away, before others take them up."""

_LAST_WORDS = 5.0
"""Seconds that runs get to be given back when the process ends."""


@dataclass(frozen=True)
class Observer:
    """Who watches runs. ``told``: hears the facts of every turn made as a run, when it is over, and whether its client
    is still there, whose request tells them as well; ``opened``: of 1 when a run begins here, of -1 when it is over.
    ``at_work``: hears, in the run's own task, of its id and of its request's.
    """

    told: Callable[[dict[str, Any], bool], object] = lambda _facts, _attended: None
    opened: Callable[[int], object] = bool
    at_work: Callable[[str, str], object] = lambda _id, _request_id: None


class Runner:
    """``most``: runs made here at a time; what is begun beyond that waits. ``limit``: seconds a response may take."""

    def __init__(self, services: Services, *, most: int, limit: float, observer: Observer) -> None:
        self._services, self._most, self._limit, self._observer = services, most, limit, observer
        self._runs: Runs = services.state.runs
        self._running: dict[str, Running] = {}
        self._tasks: dict[asyncio.Task[None], Running | None] = {}
        self._keys: set[KeyedRequest] = set()
        self._sealed = deque[str](maxlen=1000)  # runs that cannot be read here, of which the log has been told
        self._busy = asyncio.Event()
        self.reading = Reading(services, self._running)

    # -- the life of the process

    def open(self) -> None:
        """Begins to hold what is made here, and to take up what nobody makes."""
        for work in (self._hold, self._take_up, self._listen):
            self._spawn(work())

    async def close(self, grace: float) -> None:
        """Takes nothing up any more; what is being made here gets so many seconds, and is then handed over."""
        self._most = 0
        for task, running in list(self._tasks.items()):
            if running and not running.go.is_set():
                task.cancel()
        making = [task for task, running in self._tasks.items() if running and running.go.is_set()]
        if making:
            await asyncio.wait(making, timeout=grace)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_LAST_WORDS)

    # -- making

    async def begin(self, turn: Turn, key: KeyedRequest | None = None) -> Running:
        """Makes a turn a run: what it needs is read and kept, and it goes on whoever leaves. ``key``: it is to stand
        for that.

        Raises what refuses the turn, TooManyRuns, and ShuttingDown.
        """
        if not self._most:
            raise ShuttingDown
        turn.keyed = key is not None
        batches = turn.run()
        try:
            first = await anext(batches)
            run = turn.as_run()
            lease = turn.lease = Lease(run.id)
            if key:
                await key.name(run.id)
            await self._created(run, lease)
        except BaseException:
            turn.lease = None
            await batches.aclose()
            raise
        finally:
            if key:
                await key.let_go()
        running = Running(self._runs, turn, run, lease)
        running.opening = first[0]["response"]
        self._make(running, first, batches)
        return running

    async def _created(self, run: Run, lease: Lease) -> None:
        """Keeps a run. One refused as the store did not answer may be there all the same, and is not to stay."""
        try:
            await self._runs.create(run, lease)
        except StoreUnavailable:
            self._spawn(self._taken_back(run, lease))
            raise

    async def _drop(self, detached: Detached) -> None:
        """Takes a run away, as its request is answered with an error; later, where the store is away."""
        if not isinstance(detached.failure, StoreUnavailable):
            try:
                await self._runs.drop(detached.lease, detached.run.tenant)
                return
            except StoreUnavailable:
                pass
        self._spawn(self._taken_back(detached.run, detached.lease))

    async def _taken_back(self, run: Run, lease: Lease) -> None:
        if not run.id:
            return  # it was not even tried
        try:
            await patiently(lambda: self._runs.drop(lease, run.tenant))
        except RunLost:
            pass  # by now another process would have made it

    def keyed(self, claim: Claim) -> KeyedRequest:
        """A request with an idempotency key, which is held as long as it needs it."""
        return KeyedRequest(self._services.state, claim, self._keys)

    def detached(self, turn: Turn, key: KeyedRequest | None = None) -> Detached:
        """Makes a turn that becomes a run with its first event; what refuses it before that ends it. ``key``: it is to
        stand for that.

        Raises ShuttingDown.
        """
        if not self._most:
            raise ShuttingDown
        detached = Detached(self._runs, turn, self._entered, key)
        detached.task = self._spawn(self._made(detached, [], turn.run()), detached)
        return detached

    async def told(self, detached: Detached) -> AsyncGenerator[list[bytes], None]:
        """The frames of a detached turn's events, to the last. Raises what its request is answered with instead, and
        RunLost as ``Reading.follow`` does.
        """
        after, ended = -1, False
        async with aclosing(detached.told()) as told:
            async for frames in told:
                after, ended = after + len(frames), frames[-1].startswith(ENDS)
                yield frames
        if not ended:  # its reader is slow, or another process makes it now
            async with aclosing(self.reading.follow(detached.run.id, after)) as rest:
                async for frames in rest:
                    yield frames

    def _entered(self, running: Running) -> None:
        self._running[running.run.id] = running
        self._busy.set()
        self._observer.opened(1)

    def _make(self, running: Running, first: list[Event], batches: AsyncGenerator[list[Event], None]) -> None:
        self._entered(running)
        self._let_go()
        self._spawn(self._made(running, first, batches), running)

    def _let_go(self) -> None:
        """Lets as many runs be made as there is room for, oldest first."""
        waiting = [running for running in self._running.values() if not running.go.is_set()]
        for running in waiting[: max(0, self._room + len(waiting))]:
            running.go.set()

    @property
    def _room(self) -> int:
        """How many more runs may be made here."""
        return self._most - sum(running.waits_for_room for running in self._running.values())

    async def _made(self, running: Running, first: list[Event], batches: AsyncGenerator[list[Event], None]) -> None:
        timer = self._limited(running)
        try:
            async with aclosing(batches):
                await running.make(first, batches)
            await self._off_the_list(running.run)
        except RunLost as exc:
            running.failure = exc
            log.warning("response %s is left to another process: %s", running.run.id, exc.message)
        except asyncio.CancelledError:
            if isinstance(running, Detached) and not running.entered:
                self._spawn(self._taken_back(running.run, running.lease))
            else:
                await self._give_back(running)
            raise
        except StatecarError as exc:
            running.give_up(exc)
            if isinstance(running, Detached) and running.run.id:
                await self._drop(running)
        except Exception:
            log.exception("a task that makes a response broke")
            running.give_up(StatecarError("The server had an error while processing the request."))
        finally:
            timer.cancel()
            self._over(running)

    def _limited(self, running: Running) -> asyncio.TimerHandle:
        """Ends it when it has taken as long as it may."""
        left = self._limit
        if id_ := running.run.id:
            self._observer.at_work(id_, running.turn.request_id)
            left = running.run.created_at + 1 + self._limit - self._services.now()  # it began within that second
        late = StatecarError(f"The response took longer than the {self._limit:g} s that this server allows.")
        return asyncio.get_running_loop().call_later(min(max(0.0, left), self._limit), running.stop, late)

    def _over(self, running: Running) -> None:
        running.finish()
        if self._running.get(running.run.id) is not running:
            return
        del self._running[running.run.id]
        self._observer.opened(-1)
        attended, failure = running.turn.attended, running.failure
        if not attended or failure is None or isinstance(failure, RunLost):  # else it was no run after all
            self._observer.told(running.turn.facts, attended)
        self._let_go()

    async def _off_the_list(self, run: Run) -> None:
        with suppress(StoreUnavailable):  # logged; whoever looks after it next does it
            await self._runs.ended(run.id, run.tenant)

    async def _give_back(self, running: Running) -> None:
        with suppress(StoreUnavailable):  # logged; its lease ends by itself
            await self._runs.release(running.lease, running.run.tenant)

    def _spawn(self, work: Coroutine[Any, Any, None], running: Running | None = None) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks[task] = running
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if not task.cancelled() and (broken := task.exception()):
            log.error("a task broke", exc_info=broken)

    # -- cancelling

    async def cancel(self, id_: str, tenant: str) -> bool:
        """Ends a run as cancelled, wherever it is made; False when there is none. Returns when it has ended."""
        held = await self._runs.cancel(id_, tenant)
        if held is None:
            return False
        self._cancel(id_)
        if held:
            await self._runs.announce(id_)
        while await self._runs.exists(id_):
            if not self._most:
                raise ShuttingDown
            if id_ not in self._running:
                await self._try(id_, tenant)
            await asyncio.sleep(_LOOK)
        return True

    def _cancel(self, id_: str) -> None:
        if running := self._running.get(id_):
            running.stop(RunCancelled("The response was cancelled."))

    # -- tending

    async def _hold(self) -> None:
        """Renews the leases of what is made here."""
        while True:
            await asyncio.sleep(self._runs.limits.lease / 3)
            held = list(self._running.values())
            await asyncio.gather(*map(self._renew, held), *(key.renew() for key in self._keys))
            with suppress(StoreUnavailable):  # logged; a lease outlasts two failures
                await self._runs.seen_to([(running.run.id, running.run.tenant) for running in held])

    async def _renew(self, running: Running) -> None:
        try:
            await self._runs.hold(running.lease)
        except (RunLost, RunCancelled) as exc:
            if not running.over:  # else it was lost to its end
                running.stop(exc)
        except StoreUnavailable:
            pass

    async def _listen(self) -> None:
        """Learns at once what is to end, as long as anything is made here."""
        last = ""
        while True:
            try:
                if last and not self._running:
                    self._busy.clear()
                    await self._busy.wait()
                await self._runs.ready()
                last, named = await self._runs.announced(last)
                for id_ in named:
                    self._cancel(id_)
            except StoreUnavailable:
                await asyncio.sleep(_PAUSE)

    async def _take_up(self) -> None:
        """Looks for runs that nobody makes, and makes them."""
        lease, was_away = self._runs.limits.lease, False
        while True:
            pause = lease / 5 * random.uniform(0.8, 1.2)  # noqa: S311 (no secret)
            try:
                room = self._room
                found = await self._runs.due(room) if room > 0 else []
                if was_away:
                    was_away, pause = False, lease + _BACK
                    found = []
                for id_, tenant in found:
                    await self._try_safely(id_, tenant)
            except StoreUnavailable:
                was_away, pause = True, _PAUSE
            await asyncio.sleep(pause)

    async def _try_safely(self, id_: str, tenant: str) -> None:
        """The same, where one that cannot be read must not stand in the way of the others."""
        try:
            await self._try(id_, tenant)
            return
        except StatecarError as exc:
            if id_ not in self._sealed:
                log.error("response %s cannot be taken up: %s", id_, exc.message)
                if isinstance(exc, EncryptionKeyMissing):  # it is met with every look
                    self._sealed.append(id_)
        except Exception:
            log.exception("response %s cannot be taken up", id_)
        await self._runs.seen_to([(id_, tenant)])

    async def _try(self, id_: str, tenant: str) -> None:
        """Takes a run up if nobody holds it."""
        if id_ in self._running:
            return  # its lease has run out, and is about to be renewed or found lost
        lease = Lease(id_)
        run = await self._runs.claim(id_, tenant, lease)
        if run is None:
            if await self._runs.exists(id_):
                await self._runs.seen_to([(id_, tenant)])
            else:
                await self._runs.ended(id_, tenant)
            return
        await self._take(run, lease)

    async def _take(self, run: Run, lease: Lease) -> None:
        """Goes on with a run that is held by now, or ends it."""
        ends = run.cancelled or run.claims > _TAKEOVERS + 1
        try:
            telling = await patiently(lambda: self.reading.telling(run, ends=ends))
        except EncryptionKeyMissing:
            await self._runs.release(lease, run.tenant)  # others may have the key
            raise
        telling.kept, held = kept_of(run), run
        caller, end = None, RunCancelled("The response was cancelled.") if run.cancelled else StatecarError(RESTARTED)
        if not ends and telling.can_go_on:
            if whole := with_credentials(run, self._services.sealer):
                held, caller = whole, caller_of(whole, self._services.sealer)
            if caller is None:
                log.warning("a key that response %s needs was not kept or cannot be read: --seal-key", run.id)
        resumed = Resumed(held, telling, None if caller else end)
        turn = Turn(
            self._services, held.whole_request, caller or Caller(run.tenant, principal=run.owner), resumed=resumed
        )
        turn.lease = lease
        log.info("response %s is taken up, by process %d of it", run.id, run.claims)
        running = Running(self._runs, turn, run, lease, told=telling.sequence)
        if resumed.end:
            running.go.set()  # to end it there is always room
        self._make(running, [], turn.run())
