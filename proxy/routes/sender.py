"""The other end of a request that is passed on: the body it sends, and whether it is still there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.types import Message, Receive

from proxy.errors import TooLarge

_AHEAD = 64
"""Bytes of white space after which nobody waits for anything else."""
_STUCK = 5.0
"""Seconds in which nobody takes what is sent; then it is kept, as behind it may lie that its sender has left."""
_KEPT = 16 * 1024 * 1024
"""Bytes that are kept so: more than lie between two sockets."""


class Sender:
    """``first``: the message that its request began with. One task at a time may ask a server for more."""

    def __init__(self, first: Message, receive: Receive) -> None:
        self._receive = receive
        self._parts: asyncio.Queue[Message] = asyncio.Queue()
        self._taken = asyncio.Event()
        self._kept, self._is_stuck = 0, False
        self._known = bytearray(first.get("body", b""))
        self._has_more = self._is_wanted = first.get("more_body", False)

    async def gone(self) -> None:
        """Return when the caller has left; until then, take what it sends."""
        while (message := await self._receive())["type"] != "http.disconnect":
            if self._is_wanted:
                if not self._parts.empty():
                    await self._room()
                self._keep(message)

    async def _room(self) -> None:
        """Return when all that was sent is taken, or wanted no more; sooner where nobody takes it for long."""
        while not self._parts.empty():
            if self._is_stuck and self._kept < _KEPT:
                return
            self._taken.clear()
            try:
                async with asyncio.timeout(None if self._is_stuck else _STUCK):
                    await self._taken.wait()
            except TimeoutError:
                self._is_stuck = True

    def _keep(self, message: Message) -> None:
        if self._is_wanted:
            self._kept += len(message.get("body", b""))
            self._parts.put_nowait(message)

    async def _next(self) -> Message:
        message = await self._parts.get()
        self._kept -= len(message.get("body", b""))
        self._is_stuck = False
        self._taken.set()
        return message

    async def first(self) -> bytes:
        """The first byte that is no white space, as soon as it is there; b"" where so much is nothing else."""
        while not (begun := self._known[:_AHEAD].lstrip()) and self._has_more and len(self._known) < _AHEAD:
            await self._take()
        return bytes(begun[:1])

    async def beginning(self, size: int) -> bytes:
        """So many bytes of the body, or all of it where that is less."""
        while self._has_more and len(self._known) < size:
            await self._take()
        return bytes(self._known[:size])

    async def whole(self, limit: int) -> bytes:
        """All of the body. Raises TooLarge for more bytes than ``limit``."""
        while self._has_more and len(self._known) <= limit:
            await self._take()
        if len(self._known) > limit:
            raise TooLarge(f"The request body is too large: this server takes at most {limit} bytes.")
        return bytes(self._known)

    def body(self) -> bytes | AsyncIterator[bytes] | None:
        """None when there is none; bytes when all of it is there, which can be sent twice; else its parts.

        Given once: it is not kept here while the answer comes.
        """
        if self._has_more:
            return self._rest()
        body, self._known = bytes(self._known), bytearray()
        return body or None

    async def _take(self) -> None:
        message = await self._next()
        self._known += message.get("body", b"")
        self._has_more = message.get("more_body", False)

    async def _rest(self) -> AsyncIterator[bytes]:
        known = bytes(self._known)
        self._known.clear()
        try:
            yield known
            while self._has_more:
                message = await self._next()
                self._has_more = message.get("more_body", False)
                yield message.get("body", b"")
        finally:
            self._is_wanted = False
            while not self._parts.empty():
                self._parts.get_nowait()
            self._taken.set()
