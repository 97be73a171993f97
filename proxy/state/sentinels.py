"""Sentinels, asked before every new connection which server is the primary; they say it after a failover, too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import Connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from proxy.state.address import ATTEMPT
from proxy.state.pool import Lean, Tls

_LOOK = 1.0
"""Seconds after which what is known is asked for anew: an old primary may live on and take writes that get lost."""

_REST = 10.0
"""The same, after no Sentinel answered."""


class Place(NamedTuple):
    """Where a primary is. ``epoch``: its configuration's, the newest of which counts."""

    epoch: int
    host: str
    port: int


class Sentinels:
    """Who knows the primary of ``service``. All are asked at once and the first answer counts, so that one that is
    dead, or hangs, costs nothing; but not one that is older than what is known, of a Sentinel that missed a failover.
    """

    def __init__(self, places: Sequence[tuple[str, int]], service: str, options: dict[str, Any]) -> None:
        self._service = service
        self._clients = [Redis.from_pool(_pool(host, port, options)) for host, port in places]
        self._asked: dict[int, asyncio.Task[Place | None]] = {}
        self._last: Place | None = None
        self._look_at = 0.0
        self.moved: Callable[[], Awaitable[None]] | None = None
        """Called when the primary is another than before."""

    @property
    def wants_to_look(self) -> bool:
        """Whether ``look`` would ask."""
        return self._last is not None and asyncio.get_running_loop().time() >= self._look_at

    async def look(self) -> None:
        """Asks again, once in a while; where nobody answers, what is known goes on."""
        if not self.wants_to_look:
            return
        self._look_at = asyncio.get_running_loop().time() + _LOOK
        try:
            await self.primary()
        except (RedisError, TimeoutError):
            self._look_at = asyncio.get_running_loop().time() + _REST

    async def primary(self) -> Place:
        """Where the primary is. Raises what the Sentinels failed with, and redis-py's ConnectionError where none of
        them knows the service.
        """
        loop = asyncio.get_running_loop()
        best: Place | None = None
        failure: BaseException | None = None
        waiting = {self._question(number) for number in range(len(self._clients))}
        end = loop.time() + ATTEMPT
        while waiting and (best is None or (self._last and best.epoch < self._last.epoch)):
            done, waiting = await asyncio.wait(waiting, timeout=end - loop.time(), return_when=asyncio.FIRST_COMPLETED)
            if not done:
                failure = failure or TimeoutError("no Sentinel answers")
                break
            for question in done:
                failure = question.exception() or failure
                found = None if question.exception() else question.result()
                best = max(filter(None, (best, found)), default=None)
        if best is None:
            raise failure or RedisConnectionError(f"no Sentinel knows a service '{self._service}'")
        await self._note(best)
        return best

    async def place(self) -> Place:
        """The same for a new connection: where no Sentinel answers, where the primary was."""
        try:
            return await self.primary()
        except (RedisError, TimeoutError):
            if self._last is None:
                raise
            return self._last

    async def close(self) -> None:
        """Closes every connection."""
        for question in self._asked.values():
            question.cancel()
        if self._asked:
            await asyncio.wait(self._asked.values())
        for client in self._clients:
            await client.aclose()

    def _question(self, number: int) -> asyncio.Task[Place | None]:
        """The question to one of them that is under way, or a new one."""
        question = self._asked.get(number)
        if question is None or question.done():
            question = self._asked[number] = asyncio.create_task(self._ask(self._clients[number]))
            question.add_done_callback(_heard)
        return question

    async def _ask(self, client: Any) -> Place | None:
        try:
            # The epoch first: an address that is newer than its epoch does no harm, an older one would.
            about = await client.execute_command("SENTINEL MASTER", self._service)
            answer = await client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", self._service)
        except OSError as exc:
            raise RedisConnectionError(str(exc)) from exc
        except ResponseError as exc:
            if "No such master" in str(exc):
                return None
            raise
        if not answer:
            return None
        found = Place(about["config-epoch"], answer[0].decode(), answer[1])
        if self._last and found.epoch > self._last.epoch:
            await self._note(found)  # although another was faster
        return found

    async def _note(self, found: Place) -> None:
        before, self._last = self._last, found
        self._look_at = asyncio.get_running_loop().time() + _LOOK
        if self.moved and before and before[1:] != found[1:]:
            await self.moved()


class Primary(Lean, Connection):
    """A connection to whichever server is the primary when it is made."""

    def __init__(self, *, sentinels: Sentinels, **options: Any) -> None:
        super().__init__(**options)
        self._sentinels = sentinels

    async def _connect(self) -> None:
        _, self.host, self.port = await self._sentinels.place()
        await super()._connect()  # type: ignore[no-untyped-call]


class PrimaryOverTls(Primary, Tls):
    """The same over TLS."""


def _heard(question: asyncio.Task[Place | None]) -> None:
    """What nobody waited for has failed in silence: another answered."""
    if not question.cancelled():
        question.exception()


def _pool(host: str, port: int, options: dict[str, Any]) -> BlockingConnectionPool:
    return BlockingConnectionPool(**options | {"max_connections": 2, "timeout": None, "host": host, "port": port})
