"""What tenants may use, over the whole fleet: requests and tokens of the last minute, requests at work, stored bytes.

Only tenants with a quota cost anything: one script lets a request in, one ends it. A request at work has a lease, which
its process renews; those of a process that died are free within ``LEASE``. While the store is away, limits let pass.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

from proxy import ids
from proxy.errors import RateLimited, StatecarError, StorageFull, StoreUnavailable
from proxy.grants import Quota
from proxy.state import keys
from proxy.state.client import LIMIT, Client, Script
from proxy.state.keys import Lifetimes

_log = logging.getLogger(__name__)

LEASE = 15.0
"""Seconds that a request counts as at work without renewal."""

RENEWAL = 5.0
"""Seconds between renewals."""

_TOLD = 60.0
"""Seconds between two lines in the log that say that limits let pass."""

_ADMIT = Script("quota_admit")
_SETTLE = Script("quota_settle", vital=True)
_KEEP = Script("quota_keep")
_HOLD = Script("quota_hold")

_WHAT = {
    "requests": "requests per minute",
    "tokens": "tokens per minute",
    "turns": "requests at work at once",
}


class Admission:
    """A request that was let in. ``headers``: how its tenant's limits stand, for its answer.

    ``tokens``: that it took, known to whoever has it at work. ``kept``: the lineage that it stored bytes in, how many,
    and the seconds that they are kept.
    """

    def __init__(self, tenant: str, token: str, headers: dict[str, str]) -> None:
        self.tenant, self.token, self.headers = tenant, token, headers
        self.tokens = 0
        self.kept: tuple[str, int, int] = ("", 0, 0)


class Quotas:
    """Verbs on what tenants use; none of them raises StoreUnavailable. ``refused``: hears which limit has refused."""

    def __init__(self, client: Client, lifetimes: Lifetimes) -> None:
        self._client, self._lifetimes = client, lifetimes
        self._at_work: dict[str, dict[str, Admission]] = {}
        self._renewing: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._told = -_TOLD
        self.refused: Callable[[str], object] = bool

    @asynccontextmanager
    async def admitted(
        self, tenant: str, quota: Quota | None, *, stores: bool = False, again: bool = False
    ) -> AsyncIterator[Admission]:
        """Lets a request in for as long as the body runs. ``stores``: it is to store something. ``again``: it goes on
        with one that was let in elsewhere.

        Raises RateLimited and StorageFull; then nothing counts.
        """
        admission = await self._admit(tenant, quota, stores=stores, again=again) if quota and tenant else None
        if admission is None:
            yield Admission("", "", {})
            return
        try:
            yield admission
        finally:
            await self.end(admission)

    async def end(self, admission: Admission) -> None:
        """The request is at work no more; what it took counts. Done once, even for a request that is cancelled."""
        held = self._at_work.get(admission.tenant, {})
        if held.pop(admission.token, None) is None:
            return
        if not held:
            del self._at_work[admission.tenant]
        await asyncio.shield(self._spawn(self._settle(admission)))

    async def keep(self, tenant: str, quota: Quota | None, id_: str, size: int) -> None:
        """Counts bytes that are about to be stored in a conversation; with 0 those that are there count for longer.

        Raises StorageFull.
        """
        if quota and quota.stored_bytes and tenant:
            reply = await self._keep(tenant, id_, size, self._lifetimes.conversation_log, quota.stored_bytes)
            if reply and not reply[0]:
                self.refused("bytes")
                raise StorageFull(quota.stored_bytes, reply[1])

    async def give_back(self, tenant: str, quota: Quota | None, id_: str, size: int | None = None) -> None:
        """Counts bytes no more that were deleted, or not stored after all: of a response or conversation.

        ``size``: None for all that its lineage has.
        """
        if quota and quota.stored_bytes and tenant and size != 0:
            await self._keep(tenant, id_, "" if size is None else -size, 0, 0)

    async def close(self) -> None:
        """Waits for requests being ended, but not for a store that is away."""
        if self._renewing:
            self._renewing.cancel()
        if self._ending:
            await asyncio.wait(self._ending, timeout=LIMIT)
        for ending in self._ending:
            ending.cancel()

    async def _admit(self, tenant: str, quota: Quota, *, stores: bool, again: bool) -> Admission | None:
        most = quota.requests_per_minute, quota.tokens_per_minute, quota.concurrent_turns
        if not (any(most) or (stores and quota.stored_bytes)):
            return None
        admission = Admission(tenant, secrets.token_hex(8), {})
        held = keys.Quota(tenant)
        names = [held.usage, held.at_work, held.bytes, held.ends]
        most_bytes = quota.stored_bytes if stores else 0
        arguments = admission.token, int(LEASE * 1000), *most, most_bytes, int(again)
        try:
            reply = await self._client.script(_ADMIT, names, *arguments)
        except StoreUnavailable:
            self._let_pass()
            return None
        except asyncio.CancelledError:
            self._spawn(self._settle(admission))  # it may have been let in
            raise
        why, wait, requests, tokens, there, *resets = reply
        admission.headers = _headers(quota, (requests, tokens), resets)
        if why:
            self.refused(why.decode())
            raise _refusal(why.decode(), quota, wait, there, admission.headers)
        self._at_work.setdefault(tenant, {})[admission.token] = admission
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew())
        return admission

    async def _settle(self, admission: Admission) -> None:
        held = keys.Quota(admission.tenant)
        names = [held.usage, held.at_work, held.bytes, held.ends]
        try:
            await self._client.script(_SETTLE, names, admission.token, admission.tokens, *admission.kept)
        except StoreUnavailable:
            pass  # logged; its lease ends by itself

    async def _keep(self, tenant: str, id_: str, size: int | str, ttl: int, most: int) -> Any:
        held, minted = keys.Quota(tenant), ids.parse(id_)
        assert minted, "bytes are kept under ids of ours"
        names = [held.at_work, held.bytes, held.ends]
        try:
            return await self._client.script(_KEEP, names, secrets.token_hex(8), minted.tag, size, ttl, most)
        except StoreUnavailable:
            self._let_pass()

    async def _renew(self) -> None:
        """Renews the leases of all that is at work here, as long as anything is."""
        while True:
            await asyncio.sleep(RENEWAL)
            if not self._at_work:
                return
            await asyncio.gather(*(self._hold(tenant, list(held)) for tenant, held in self._at_work.items()))

    async def _hold(self, tenant: str, tokens: list[str]) -> None:
        try:
            await self._client.script(_HOLD, [keys.Quota(tenant).at_work], int(LEASE * 1000), *tokens)
        except StoreUnavailable:
            pass  # logged; a lease outlasts two failures

    def _let_pass(self) -> None:
        now = monotonic()
        if now - self._told >= _TOLD:
            self._told = now
            _log.warning("limits of tenants cannot be looked at: requests are let pass while the store is away")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task


def _headers(quota: Quota, used: tuple[int, int], resets: list[int]) -> dict[str, str]:
    """As OpenAI tells limits; ``resets``: seconds until nothing counts any more."""
    headers: dict[str, str] = {}
    limits = ("requests", quota.requests_per_minute), ("tokens", quota.tokens_per_minute)
    for (name, most), taken, reset in zip(limits, used, resets, strict=True):
        if most:
            headers[f"x-ratelimit-limit-{name}"] = str(most)
            headers[f"x-ratelimit-remaining-{name}"] = str(max(0, most - taken))
            headers[f"x-ratelimit-reset-{name}"] = f"{reset}s"
    return headers


def _refusal(why: str, quota: Quota, wait: int, there: int, headers: dict[str, str]) -> StatecarError:
    if why == "bytes":
        full = StorageFull(quota.stored_bytes, there, wait)
        full.headers |= headers
        return full
    most = {
        "requests": quota.requests_per_minute,
        "tokens": quota.tokens_per_minute,
        "turns": quota.concurrent_turns,
    }[why]
    return RateLimited(_WHAT[why], most, wait, headers)
