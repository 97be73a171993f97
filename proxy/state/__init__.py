"""All that statecar keeps: responses and conversations in Redis or Valkey. The only rooms that know Redis.

``State`` is the door; its verbs raise the errors of ``proxy.errors`` and nothing of redis-py's.
"""

from __future__ import annotations

import asyncio
from math import inf

from proxy.state import keys
from proxy.state.client import Client, Heard, Script, unheard
from proxy.state.conversations import Conversation, Conversations
from proxy.state.conversations import missing as conversation_missing
from proxy.state.envelope import OPEN, Envelope
from proxy.state.export import Count, Export
from proxy.state.idempotency import Claim, IdempotencyKeys
from proxy.state.index import TenantIndex
from proxy.state.leases import Lock
from proxy.state.lessons import Lessons
from proxy.state.lineages import Lineages
from proxy.state.owners import Owners, Sees
from proxy.state.page import Page, cut
from proxy.state.past import Item, Past, Place
from proxy.state.purge import Purge, Purged
from proxy.state.quotas import Admission, Quotas
from proxy.state.records import Draft, Stored
from proxy.state.responses import Responses
from proxy.state.restore import Outcome, Restore
from proxy.state.runs import BLOCK, End, Lease, Limits, Run, Runs
from proxy.state.secret import SHARED, TenantSecret, fixed_secret, tenant_id
from proxy.state.sweep import Sweep
from proxy.state.used import missing_keys

__all__ = [
    "SHARED",
    "Admission",
    "Claim",
    "Conversation",
    "Conversations",
    "Count",
    "Draft",
    "End",
    "Envelope",
    "Export",
    "Item",
    "Lease",
    "Lessons",
    "Limits",
    "Lock",
    "Outcome",
    "Owners",
    "Page",
    "Past",
    "Place",
    "Purge",
    "Purged",
    "Quotas",
    "Responses",
    "Restore",
    "Run",
    "Runs",
    "Sees",
    "State",
    "Stored",
    "conversation_missing",
    "cut",
    "fixed_secret",
    "open_state",
    "tenant_id",
]


_PROBE = Script("probe")
_FRESH = 1.0


class State:
    """Responses, runs, conversations, idempotency keys, lessons and what tenants use of their limits in one store."""

    def __init__(
        self,
        client: Client,
        waiting: Client,
        lifetimes: keys.Lifetimes,
        lesson_ttl: int,
        limits: Limits,
        envelope: Envelope,
    ) -> None:
        self._client, self._waiting, self._lifetimes = client, waiting, lifetimes
        self._envelope = envelope
        self._checked = -_FRESH
        self._secret = TenantSecret(client)
        self.responses = Responses(client, lifetimes, limits.log_ttl, envelope)
        self.owners = Owners(client, envelope)
        self.runs = Runs(client, waiting, lifetimes, limits, envelope)
        self.conversations = Conversations(client, lifetimes, envelope)
        self.idempotency = IdempotencyKeys(client, limits.lease)
        self.lessons = Lessons(client, lesson_ttl)
        self.quotas = Quotas(client, lifetimes)

    async def ping(self) -> None:
        """Returns when the store runs a script that writes. Raises StoreUnavailable."""
        await self._client.script(_PROBE, [keys.PROBE])

    async def check(self, tag: str = "") -> None:
        """Like ``ping``, of the node that has a lineage; a single server that took a save or a probe within the last
        second is not asked.
        """
        if tag and self._client.is_cluster:
            await self._client.script(_PROBE, [keys.Lineage(tag).probe])
            return
        now = asyncio.get_running_loop().time()
        if now >= self._checked + _FRESH and not self.responses.saved_within(_FRESH):
            await self.ping()
            self._checked = now

    async def tenant_secret(self) -> bytes:
        """The 32 bytes that key the tenant hash, the same for every process on this store. Raises StoreUnavailable."""
        return await self._secret.get()

    async def known_secret(self) -> bytes | None:
        """That secret, None where none has been made yet. Raises StoreUnavailable."""
        return await self._secret.known()

    async def install_secret(self, secret: bytes) -> None:
        """Gives the store a secret, unless it has one. Raises StoreUnavailable."""
        await self._secret.install(secret)

    def export(self, tenant: str) -> Export:
        """A tenant's export."""
        return Export(self._client, self._sweep(tenant), self.conversations, self.runs, self._envelope)

    async def restore(self, tenant: str) -> Restore:
        """What puts the lines of an export into the store, as this tenant's. Raises StoreUnavailable."""
        lineages, index = Lineages(self._client, self._lifetimes), TenantIndex(self._client, self._lifetimes)
        restore = Restore(self._client, lineages, index, self._sweep(tenant), self._envelope)
        await restore.begin()
        return restore

    def purge(self, tenant: str) -> Purge:
        """A tenant's purge."""
        return Purge(self._client, self._sweep(tenant), self.runs)

    def _sweep(self, tenant: str) -> Sweep:
        return Sweep(self._client, Lineages(self._client, self._lifetimes), tenant)

    async def warnings(self) -> list[str]:
        """What an operator should know at start-up, a sentence each. Raises StoreUnavailable."""
        evicting = sorted(await self._client.policies() - {"noeviction"})
        return [
            f"The store's maxmemory-policy is {policy}: when it is full it drops stored responses and conversations "
            "without a word. Set it to noeviction."
            for policy in evicting
        ] + await self.key_warnings()

    async def key_warnings(self) -> list[str]:
        """Those about keys alone, from a process that is about to encrypt with its own. Raises StoreUnavailable."""
        return [
            f"The store holds content that is encrypted with key {name}, which is not here: whatever needs it fails. "
            "Give that key with --encryption-key too; the first of several encrypts."
            for name in await missing_keys(self._client, self._envelope, self._lifetimes)
        ]

    async def close(self) -> None:
        """Releases what is being released, then closes every connection."""
        await self._secret.close()
        await self.conversations.close()
        await self.quotas.close()
        await self._waiting.close()
        await self._client.close()


def open_state(  # noqa: PLR0913  what the store is told by options
    url: str,
    *,
    response_ttl: int,
    conversation_ttl: int,
    lesson_ttl: int = 86400,
    connections: int = 32,
    limits: Limits | None = None,
    envelope: Envelope = OPEN,
    heard: Heard = unheard,
    patience: float = 0,
) -> State:
    """The state behind a URL: ``redis://``, ``rediss://``, ``unix://``, and ``redis`` or ``rediss`` with ``+cluster``
    or ``+sentinel``.

    Connects with the first use. Lifetimes in seconds, 0 for ever. ``connections``: at most so many to each server.
    ``envelope``: the form in which content lies there. ``heard``: told of every operation. ``patience``: more seconds
    than usual that one may take. Raises ValueError for a URL that cannot be right.
    """
    limits = limits or Limits()
    client = Client(url, connections=connections, heard=heard, patience=patience)
    followers = limits.followers + 1  # and one that listens for runs to be ended
    waiting = Client(url, connections=followers, slow=inf, patience=BLOCK / 1000)
    return State(client, waiting, keys.Lifetimes(response_ttl, conversation_ttl), lesson_ttl, limits, envelope)
