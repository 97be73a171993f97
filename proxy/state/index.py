"""A tenant's list of responses. It lies in a slot of its own, beside the records: written with a save, never atomic
with it, so readers skip and remove what is dead."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from proxy import ids
from proxy.errors import StoreUnavailable
from proxy.state import keys
from proxy.state.client import Call, Client, Script
from proxy.state.keys import CONVERSATION_LOG, Lifetimes
from proxy.state.lineages import entry_args
from proxy.state.page import Page
from proxy.state.records import Draft, Stored

_log = logging.getLogger(__name__)

_ADD = Script("index_add")
_SCAN = Script("index_scan")

OTHER = "other"
"""What a loader answers for a response that is alive but not asked for."""

Loader = Callable[[Sequence[str]], Awaitable[Sequence[Stored | str | None]]]
"""Responses by their ids: each itself, OTHER, or None when it is dead."""


Listed = tuple[list[Stored], bool]
"""(responses, has_more)."""


class TenantIndex:
    """The responses of each tenant by time of creation."""

    def __init__(self, client: Client, lifetimes: Lifetimes) -> None:
        self._client = client
        self._ttl, self._lifetimes = lifetimes.response, lifetimes

    async def add(self, draft: Draft) -> None:
        """Lists a response; a failure is logged and costs no more than the entry."""
        entry = self.entry(draft)
        try:
            await self._client.script(entry.script, entry.keys, *entry.args)
        except StoreUnavailable:
            _log.warning("%s", entry.loss)

    def entry(self, draft: Draft) -> Call:
        """What lists a response, and its lineage."""
        now = time.time_ns() // 1000
        created = draft.created_at * 1_000_000
        # created_at has whole seconds; within one, what was saved first comes first
        score = min(max(now, created), created + 999_999)
        oldest = now - self._ttl * 1_000_000 if self._ttl else 0
        loss = f"response {draft.id} was not entered into its tenant's list"
        lists = [keys.tenant_index(draft.tenant), keys.tenant_lineages(draft.tenant)]
        lineage = entry_args(draft.past.tag, self._lifetimes.listed(draft.past.log == CONVERSATION_LOG))
        return Call(_ADD, lists, (score, _member(draft.id), oldest, self._ttl, *lineage), loss)

    async def restore(self, tenant: str, id_: str, score: int, left: int) -> None:
        """Lists a response that was listed with this score elsewhere, and has so many seconds left, 0 for ever."""
        lists = [keys.tenant_index(tenant), keys.tenant_lineages(tenant)]
        minted = ids.of_kind(id_, "resp")
        assert minted, "responses are named by ids of ours"
        lineage = entry_args(minted.tag, 2 * left)
        await self._client.script(_ADD, lists, score, _member(id_), 0, left, *lineage)

    async def remove(self, tenant: str, *ids_: str) -> None:
        """Takes responses off the list; a failure is left to the next reader."""
        try:
            await self._client.command("ZREM", keys.tenant_index(tenant), *map(_member, ids_))
        except StoreUnavailable:
            _log.warning("%d responses were not taken off their tenant's list", len(ids_))

    async def page(self, tenant: str, page: Page, load: Loader, most: int) -> Listed:
        """(responses, has_more); a full page as long as there are enough that the loader gives. ``most``: so many are
        looked at together where a page is not full with the first.

        Raises InvalidRequest for an unknown cursor.
        """
        if page.cursor is not None and not ids.of_kind(page.cursor, "resp"):
            raise page.no_cursor()
        found, dead, cursor, count = list[Stored](), list[str](), page.cursor, page.limit + 1
        while True:
            listed = await self._scan(tenant, page.direction, count, cursor)
            if listed is None and cursor != page.cursor:  # another reader found it dead: begin again
                return await self.page(tenant, page, load, most)
            if listed is None:
                raise page.no_cursor()
            loaded = await load(listed)
            found += [one for one in loaded if isinstance(one, Stored)]
            dead += [id_ for id_, one in zip(listed, loaded, strict=True) if one is None]
            if len(found) > page.limit or len(listed) < count:
                break
            cursor, count = listed[-1], most
        if dead:
            await self.remove(tenant, *dead)
        return page.finish(found[: page.limit + 1])

    async def _scan(self, tenant: str, direction: str, count: int, cursor: str | None) -> list[str] | None:
        after = _member(cursor) if cursor else b""
        reply = await self._client.script(_SCAN, [keys.tenant_index(tenant)], direction, count, after)
        return None if reply == b"CURSOR" else [f"resp_{member.hex()}0000" for member in reply]


def _member(id_: str) -> bytes:
    """Tag and turn of a response id in 22 bytes."""
    return bytes.fromhex(id_.removeprefix("resp_")[:44])
