"""``/v1/responses`` as a WebSocket: frames in, events out, one turn after the other (wire §13)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from proxy.access import key_of
from proxy.errors import (
    ConnectionExpired,
    ForeignOrigin,
    InvalidRequest,
    RunLost,
    StatecarError,
    StoreUnavailable,
    TooManyConnections,
    TooManyFrames,
)
from proxy.observe import CLIENT_LEFT, WEBSOCKET, Finished, at_work_on
from proxy.routes.access import Access, check_asked
from proxy.routes.edge import ClientGone, attended, decoded, facts
from proxy.routes.frames import MOST, Frames, Telling, steering_refused
from proxy.routes.open import OpenRequests
from proxy.routes.recent import Recent
from proxy.routes.streaming import Pace, attending
from proxy.rules import RESPONSE
from proxy.runs import Detached, Runner
from proxy.translate.items import Event
from proxy.turn import Caller, Services, ShuttingDown, Turn, stateless
from proxy.waits import Waits, begin
from proxy.wire import STEER, create_frame, frame, on_disconnect

log = logging.getLogger("statecar.edge")

_FAILED = b"event: response.failed\n"

_LAST_WORDS = 5.0
"""Seconds that a client gets to take what a connection ends with."""

_GOING_AWAY, _REFUSED, _RESTARTING = 1001, 1008, 1012


@dataclass(frozen=True)
class Bounds:
    """``connections``: that a process has open; ``seconds``: of one, ``waiting``: bytes of its frames that wait."""

    connections: int
    seconds: float
    waiting: int


@dataclass
class WebSockets:
    """The endpoint, an ASGI application over what it needs.

    ``told``: hears of every frame that is answered; ``opened``: of 1 for a connection that begins, of -1 for one that
    is over. ``on_disconnect``: what becomes of stored turns whose client leaves, ``cancel`` or ``detach``. Raises,
    before it takes the connection: Unauthorized, ForeignOrigin, InvalidRequest, StoreUnavailable, TooManyConnections.
    """

    services: Services
    runner: Runner
    access: Access
    requests: OpenRequests
    pace: Pace
    bounds: Bounds
    recent: Recent
    told: Callable[[Finished], object]
    opened: Callable[[int], object]
    on_disconnect: str = "cancel"
    _open: set[Connection] = field(default_factory=set)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        facts(scope)["route"] = scope["path"]
        await receive()  # the handshake
        handshake = HTTPConnection(scope)
        caller = await self.access.caller(handshake)
        origin = handshake.headers.get("origin", "")
        # no page can send a key: browsers let none set a WebSocket's headers
        if origin and not key_of(scope["headers"]) and origin.partition("://")[2] != handshake.headers.get("host"):
            raise ForeignOrigin
        if len(self._open) >= self.bounds.connections:
            raise TooManyConnections
        disconnect = on_disconnect(handshake.headers.items()) or self.on_disconnect
        connection = Connection(self, caller, scope, receive, send, detaches=disconnect == "detach")
        self._open.add(connection)
        self.opened(1)
        try:
            with suppress(OSError):  # it left before it had its answer, and says so once more
                await send({"type": "websocket.accept"})
            with self.requests.warned_by(connection.end):
                await connection.serve()
        finally:
            self._open.discard(connection)
            self.recent.forget(connection)
            self.opened(-1)


class Connection:
    """One client's connection: its frames are answered in the order in which they came."""

    def __init__(
        self, endpoint: WebSockets, caller: Caller, scope: Scope, receive: Receive, send: Send, *, detaches: bool
    ) -> None:
        """``detaches``: stored turns go on when the client leaves."""
        bounds = endpoint.bounds
        self._endpoint, self._caller, self._scope, self._send = endpoint, caller, scope, send
        self._frames = Frames(receive, bounds.waiting, asyncio.get_running_loop().time() + bounds.seconds)
        self._telling = Telling(send, endpoint.pace)
        self._answered = 0
        self._detaches, self._is_cut = detaches, False

    def end(self) -> None:
        """Ends the connection after the turn at work."""
        self._frames.end()

    def _cut(self) -> None:
        """Ends it without an end of the turn at work, which comes from another process."""
        self._is_cut = True
        self.end()

    async def serve(self) -> None:
        """Answers frames until the client leaves, the process ends, or the connection's time is over."""
        frames, telling, code = self._frames, self._telling, _GOING_AWAY
        last: StatecarError | None = None
        try:
            async with attended(frames.hear, telling):
                while (text := await frames.next()) is not None:
                    await self._answer(text)
        except ClientGone:
            if not frames.flooded:
                return
            code, last = _REFUSED, TooManyFrames(MOST, self._endpoint.bounds.waiting)
        if frames.expired:
            last = ConnectionExpired(self._endpoint.bounds.seconds)
        elif self._is_cut or self._endpoint.requests.stopped:
            code = _RESTARTING
        with suppress(ClientGone, TimeoutError, OSError):
            async with asyncio.timeout(_LAST_WORDS):
                if last:
                    telling.lane = None
                    await telling.error(last)
                await self._send({"type": "websocket.close", "code": code})

    async def _answer(self, text: str | bytes) -> None:
        """One frame's answer, and its line in the log."""
        self._answered += 1
        request_id = f"{self._caller.request_id}-{self._answered}"
        at_work_on(request_id)
        noted: dict[str, Any] = {"request_id": request_id, "tenant": self._caller.tenant[:8]}
        waits, status = begin(), CLIENT_LEFT
        try:
            await self._obey(text, noted, waits)
            status = 200
        except StatecarError as exc:
            status = exc.status
            await self._telling.error(exc)
        except Exception as exc:
            status = CLIENT_LEFT if isinstance(exc, ClientGone) else 500
            raise
        finally:
            self._telling.begin(None)
            at_work_on(self._caller.request_id)
            noted["left"] = status == CLIENT_LEFT
            whole = perf_counter() - waits.began
            self._endpoint.told(Finished(request_id, WEBSOCKET, self._scope["path"], status, None, whole, noted))

    async def _obey(self, text: str | bytes, noted: dict[str, Any], waits: Waits) -> None:
        """Does what the frame asks for. Raises StatecarError where nothing comes of it."""
        self._telling.lane = None
        if isinstance(text, bytes):
            raise InvalidRequest("Binary frames are not read here. Send each request as a text frame that holds JSON.")
        value = decoded(text.encode())
        lane = value.get("stream_id") if isinstance(value, dict) else None
        self._telling.lane = lane if isinstance(lane, str) else None
        given = frame(value)
        if given["type"] == STEER:
            await self._telling.events([steering_refused(given)])
            return
        recent, previous = self._endpoint.recent, given.get("previous_response_id")
        is_kept = False
        try:
            is_kept = await self._turn(given, noted, waits)
        finally:
            if not is_kept and previous is not None:
                recent.forget(self, previous)

    async def _turn(self, given: dict[str, Any], noted: dict[str, Any], waits: Waits) -> bool:
        """Tells a turn as it is made; whether it went well. One that is not stored can be continued here alone."""
        request, generates = create_frame(given)
        now = await self._endpoint.access.renewed(self._caller, HTTPConnection(self._scope))
        check_asked(now, request)
        if request.get("store", True):
            self._endpoint.services.guard.check_create(now, RESPONSE)
        recent, requests = self._endpoint.recent, self._endpoint.requests
        known = recent.find(self, request.get("previous_response_id"))
        caller = replace(now, request_id=noted["request_id"], recent=known)
        unkept = await stateless(request, self._endpoint.services, caller)
        if unkept:
            request["store"] = False
        turn = Turn(self._endpoint.services, request, caller, unkept=unkept, generates=generates)
        noted["turn"] = turn.facts
        requests.streams(1)
        try:
            # what only this connection remembers is nothing that another process could go on from
            if self._detaches and generates and not known and request.get("store", True):
                return await self._detached(turn, noted, waits)
            await self._attended(turn, waits)
        finally:
            requests.streams(-1)
        if turn.facts["response_status"] == "failed":
            return False
        if not request.get("store", True):
            recent.keep(self, turn.facts["response"], turn.as_past())
        return True

    async def _attended(self, turn: Turn, waits: Waits) -> None:
        """Tells a turn that ends with its client."""

        async def silence() -> list[Event]:
            return turn.begin() or [event for event in [turn.keepalive()] if event]

        self._telling.begin(silence)
        try:
            with self._endpoint.requests.ended_by(turn.stop):
                async with aclosing(turn.run()) as batches:
                    async for events in batches:
                        await self._tell(events, turn, waits)
        finally:
            turn.facts |= waits.told()

    async def _tell(self, events: list[Event], turn: Turn, waits: Waits) -> None:
        began = perf_counter()
        if events and "first_event_ms" not in turn.facts:
            turn.facts["first_event_ms"] = round((began - waits.began) * 1000, 1)
        try:
            await self._telling.events(events)
        finally:
            waits.client += perf_counter() - began

    async def _detached(self, turn: Turn, noted: dict[str, Any], waits: Waits) -> bool:
        """Tells a turn that is a run from its first event on; whether it went well (wire §3.1)."""
        detached, telling = self._endpoint.runner.detached(turn), self._telling

        async def silence() -> list[Event]:
            with suppress(StatecarError):  # what ends the turn is told by itself
                await (detached.keepalive() if telling.begun else detached.open())
            return []

        telling.begin(silence)
        now, is_well = asyncio.get_running_loop().time, False
        try:
            async with asyncio.timeout(None) as reading:
                with self._endpoint.requests.ended_by(lambda: reading.reschedule(now())), attending(detached, noted):
                    is_well = await self._follow(detached, waits)
                    await detached.ended()  # its facts are whole by then
        except TimeoutError:
            if not telling.begun:
                raise ShuttingDown from None
            self._cut()
        except RunLost as exc:
            log.warning("the events of a response cannot be read: %s", exc.message)
            if not telling.begun:
                raise StoreUnavailable from None
            self._cut()
        if noted.get("left"):
            raise ClientGone
        return is_well

    async def _follow(self, detached: Detached, waits: Waits) -> bool:
        is_well, facts = False, detached.turn.facts
        async with aclosing(self._endpoint.runner.told(detached)) as batches:
            async for frames in batches:
                if not self._telling.begun:
                    facts["first_event_ms"] = round((perf_counter() - waits.began) * 1000, 1)
                await self._telling.logged(frames)
                is_well = not frames[-1].startswith(_FAILED)
        return is_well
