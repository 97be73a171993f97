"""The other end of a request that is passed on: the body it sends, and whether it is still there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.types import Message, Receive

from proxy.errors import TooLarge

_AHEAD = 64
"""Bytes of white space after which nobody waits for anything else."""


class Sender:
    """``first``: the message that its request began with. One task at a time may ask a server for more."""

    def __init__(self, first: Message, receive: Receive) -> None:
        self._receive = receive
        self._parts: asyncio.Queue[Message] = asyncio.Queue(1)
        self._known = bytearray(first.get("body", b""))
        self._has_more = self._is_wanted = first.get("more_body", False)

    async def gone(self) -> None:
        """Return when the caller has left; until then, take what it sends."""
        while (message := await self._receive())["type"] != "http.disconnect":
            if self._is_wanted:
                await self._parts.put(message)

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
        message = await self._parts.get()
        self._known += message.get("body", b"")
        self._has_more = message.get("more_body", False)

    async def _rest(self) -> AsyncIterator[bytes]:
        known = bytes(self._known)
        self._known.clear()
        try:
            yield known
            while self._has_more:
                message = await self._parts.get()
                self._has_more = message.get("more_body", False)
                yield message.get("body", b"")
        finally:
            self._is_wanted = False
            while not self._parts.empty():
                self._parts.get_nowait()
