"""A conversation's lock: taken by a script of its own, renewed while the turn runs, released whatever happens.

The token says whose it is, so nobody renews or releases another's. A killed process frees its lock within one lease.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from proxy.errors import StoreUnavailable
from proxy.state.client import LIMIT, Client, Script
from proxy.waits import Waiting

_log = logging.getLogger(__name__)

LEASE = 15.0
"""Seconds a lock lives without renewal."""

RENEWAL = 5.0
"""Seconds between renewals."""

_PAUSE = 1.0
"""Seconds between two tries to release where the store is away."""

_LEASE = Script("lease", vital=True)


class Lock:
    """One turn's claim on a conversation. ``held``: it may be ours in the store, so it must be released.

    ``token``: of an earlier claim that this one goes on with; "" for a new one.
    """

    def __init__(self, key: str, conversation: str, token: str = "") -> None:
        self.key = key
        self.conversation = conversation
        self.token = token or secrets.token_hex(16)
        self.held = False


class Locks:
    """Renews and releases locks."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._releasing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def kept(self, lock: Lock) -> AsyncIterator[None]:
        """Renews the lock while the body runs and releases it afterwards, unless ``held`` says it is not ours by then.

        The release is a task of its own: it is done even when the body was cancelled and goes on being cancelled.
        """
        renewing = asyncio.create_task(self._renew(lock))
        reachable = True
        try:
            yield
        except StoreUnavailable:
            reachable = False  # then nobody waits for the release as well
            raise
        finally:
            renewing.cancel()
            if lock.held:
                lock.held = False
                releasing = self._spawn(self._release(lock))
                if reachable:
                    with Waiting("store"):
                        await asyncio.shield(releasing)

    async def close(self) -> None:
        """Waits for releases under way, but not for a store that is away."""
        if self._releasing:
            await asyncio.wait(self._releasing, timeout=LIMIT)
        for releasing in self._releasing:
            releasing.cancel()

    async def _renew(self, lock: Lock) -> None:
        while True:
            await asyncio.sleep(RENEWAL)
            try:
                ours = await self._client.script(_LEASE, [lock.key], lock.token, int(LEASE * 1000))
            except StoreUnavailable:
                continue  # already logged; the lease outlasts two failures
            if not ours and lock.held:
                _log.warning("the lock of conversation %s was lost while a turn was running", lock.conversation)

    async def _release(self, lock: Lock) -> None:
        try:
            await self._client.script(_LEASE, [lock.key], lock.token, 0)
        except StoreUnavailable:
            self._spawn(self._release_late(lock))

    async def _release_late(self, lock: Lock) -> None:
        """Tries until the lease has ended by itself, so that a conversation is free as soon as the store is back."""
        for _ in range(int(LEASE / _PAUSE)):
            await asyncio.sleep(_PAUSE)
            try:
                await self._client.script(_LEASE, [lock.key], lock.token, 0)
            except StoreUnavailable:
                continue  # already logged
            return

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)
        return task
