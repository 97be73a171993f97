"""The key file as it stands: read again when it has changed."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from math import inf
from pathlib import Path

from proxy.access.keyfile import KeyTable, parse
from proxy.errors import KeysUnavailable

log = logging.getLogger("statecar")

_EVERY = 1.0
"""Seconds after which it is looked whether a file has changed: with the reading, within two it counts."""

_AGAIN = 5.0
"""Seconds after which a file that could not be read is tried again, changed or not: what it names may be there now."""

_State = tuple[tuple[int, int, int, int] | None, ...]
"""Device, inode, size and time of change of each file; None for one that is not there."""


class KeyFile:
    """Its keys. One that cannot be read, or says what is wrong, leaves those that were read before, and is logged.

    Requests that come while a changed file is being read wait for it, so that no key is taken that was withdrawn long
    ago. After ``begin`` it looks by itself too: a process that was asked nothing between a change and a file that is
    broken would keep the keys of before both.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._table: KeyTable | None = None
        self._state: _State = ()
        self._due, self._again = 0.0, inf
        self._told = ""
        self._reading: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Looks from now on, whether or not anybody asks."""
        self._looking = asyncio.create_task(self._look_on())

    async def table(self) -> KeyTable:
        """What it says by now. Raises KeysUnavailable where it was never read."""
        await self._looked()
        if self._table is None:
            raise KeysUnavailable("The keys that callers are checked by cannot be read. Please retry.")
        return self._table

    async def limits(self, tenant: str) -> Mapping[str, int]:
        """A tenant's limits by now, those that it gives."""
        await self._looked()
        return self._table.limits.get(tenant, {}) if self._table else {}

    async def _looked(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._reading is None and now >= self._due:
            self._due = now + _EVERY
            if (state := self._look()) != self._state or now >= self._again:
                self._reading = asyncio.create_task(self._read(state))
        if self._reading is not None:
            await asyncio.shield(self._reading)

    async def _look_on(self) -> None:
        while True:
            await self._looked()
            await asyncio.sleep(self._due - asyncio.get_running_loop().time())

    async def close(self) -> None:
        """Ends the looking, and a reading under way."""
        for task in (self._looking, self._reading):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])

    def _look(self) -> _State:
        """As the links lead now: Kubernetes changes a mounted Secret by another target of one link."""
        return tuple(map(_state_of, (self._path, *(self._table.files if self._table else ()))))

    async def _read(self, state: _State) -> None:
        try:
            # a thousand keys take 0.1 s
            table = await asyncio.to_thread(lambda: parse(self._path.read_text("utf-8")))
        except (OSError, ValueError) as exc:
            self._state, self._again = state, asyncio.get_running_loop().time() + _AGAIN
            why = (
                str(exc.strerror)
                if isinstance(exc, OSError)
                else "no text"
                if isinstance(exc, UnicodeError)
                else str(exc)
            )
            kept = f"{len(self._table.entries)} keys read before go on" if self._table else "nobody can call"
            if why != self._told:
                self._told = why
                log.error("key file %s: %s; %s", self._path, why, kept)
        else:
            is_news, self._table = bool(self._told) or self._table not in (None, table), table
            self._again, self._told = inf, ""
            # that of before the reading: what changed meanwhile is read again, and so is a file that it newly names
            self._state = state
            if is_news:
                log.info("key file %s: read again, %d keys", self._path, len(table.entries))
        finally:
            self._reading = None


def _state_of(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
