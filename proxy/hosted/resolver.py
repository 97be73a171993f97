"""Names of servers that requests name, looked up apart from all others.

Whoever writes a URL may choose a name whose servers never answer, and a lookup cannot be called off: it keeps its
thread for half a minute. The loop has four to six threads for all lookups, those of the upstream and of the store among
them.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from threading import Thread
from typing import Any

_AT_ONCE = 128


class SystemResolver:
    """The system's answers, in the order it prefers, from threads of its own; no process waits for them to end."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def __call__(self, host: str, port: int) -> list[str]:
        """The addresses of a name. Raises OSError where it has none."""
        await self._room.acquire()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[str]] = loop.create_future()

        def look_up() -> None:
            try:
                found: Any = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
            except (OSError, UnicodeError) as exc:
                found = exc
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._told, answer, found)

        Thread(target=look_up, name=f"lookup of {host}", daemon=True).start()
        return await answer

    def _told(self, answer: asyncio.Future[list[str]], found: list[str] | OSError | UnicodeError) -> None:
        self._room.release()
        if answer.done():
            return
        if isinstance(found, list):
            answer.set_result(found)
        else:
            answer.set_exception(found if isinstance(found, OSError) else OSError(str(found)))
