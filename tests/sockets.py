"""How tests talk to a running statecar over a WebSocket: frames out, every turn's events checked as they come in."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.backend import PATIENCE
from tests.live import strict

TERMINAL = ("response.completed", "response.incomplete", "response.failed", "error")

Event = dict[str, Any]


class Socket:
    """One connection. ``ws``: the client's own."""

    def __init__(self, ws: ClientConnection) -> None:
        self.ws = ws

    async def send(self, text: Any = "Hi", /, **fields: Any) -> None:
        """A frame that asks for a response."""
        await self.ws.send(json.dumps({"type": "response.create", "model": "m", "input": text} | fields))

    async def event(self) -> Event:
        """The next one, whatever it is."""
        async with asyncio.timeout(PATIENCE):
            told = await self.ws.recv()
        assert isinstance(told, str), "events are text frames"
        event: Event = json.loads(told)
        if event["type"] == "error" and "sequence_number" not in event:
            strict.error_frame(event)
        return event

    async def until(self, type_: str) -> list[Event]:
        """The events up to the first of this type."""
        events = [await self.event()]
        while events[-1]["type"] != type_:
            events.append(await self.event())
        return events

    async def events(self, begun: Sequence[Event] = ()) -> list[Event]:
        """A whole turn, of which the first have come; or the error frame that stands for it."""
        events = [*begun] or [await self.event()]
        while events[-1]["type"] not in TERMINAL:
            events.append(await self.event())
        if len(events) > 1:
            strict.stream(events)
        return events

    async def ask(self, text: Any = "Hi", /, **fields: Any) -> list[Event]:
        """The events of a turn asked for now."""
        await self.send(text, **fields)
        return await self.events()

    async def create(self, text: Any = "Hi", /, **fields: Any) -> dict[str, Any]:
        """A response that must succeed."""
        *_, last = await self.ask(text, **fields)
        assert last["type"] == "response.completed", last
        response: dict[str, Any] = last["response"]
        return response

    async def refused(self, text: Any = "Hi", /, **fields: Any) -> tuple[int, str, str | None]:
        """(status, code, param) of the error frame that is all that comes."""
        [told] = await self.ask(text, **fields)
        assert told["type"] == "error", told
        return told["status"], told["error"]["code"], told["error"]["param"]

    async def closed(self) -> int:
        """The code of the close that comes next."""
        try:
            async with asyncio.timeout(PATIENCE):
                told = await self.ws.recv()
        except ConnectionClosed as exc:
            return exc.rcvd.code if exc.rcvd else 1006
        raise AssertionError(f"no close but {told!r}")


@asynccontextmanager
async def opened(
    url: str, key: str | None = None, path: str = "/v1/responses", **headers: str
) -> AsyncIterator[Socket]:
    """A connection to a server; ``key``: fresh by default, so with state apart. Leaving the block closes it."""
    headers = {"authorization": f"Bearer {key or secrets.token_hex(12)}", **headers}
    address = url.replace("http://", "ws://") + path
    async with connect(address, additional_headers=headers, proxy=None, max_size=None, close_timeout=PATIENCE) as ws:
        yield Socket(ws)
