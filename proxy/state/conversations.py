"""Conversations: their items lie once in a log that never shrinks, and an index says which of them are still in it.

The items are the only truth: what a client adds or deletes is what the next turn sees (wire §3.8, §10.4).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from proxy import codec, ids
from proxy.errors import InvalidRequest, NotFound
from proxy.rules import Owner
from proxy.state.client import Client, Script
from proxy.state.envelope import METADATA, Envelope
from proxy.state.keys import CONVERSATION_LOG, MARKED, Lifetimes, Lineage
from proxy.state.leases import LEASE, Lock, Locks
from proxy.state.lineages import Lineages
from proxy.state.owners import owned
from proxy.state.page import Page
from proxy.state.past import Item, Past, whole, without
from proxy.waits import Waiting

_CREATE = Script("conversation_create")
_PAST = Script("conversation_past")
_ADD = Script("conversation_add")
_LIST = Script("conversation_list")
_ITEM = Script("conversation_item")
_UPDATE = Script("conversation_update")
_DELETE = Script("conversation_delete")

_POLL = 0.1  # seconds between attempts at a lock that is taken


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation without its items. ``created_at``: seconds since the epoch."""

    id: str
    created_at: int
    metadata: dict[str, Any]


class Conversations:
    """Verbs on conversations. A missing, expired or foreign one raises NotFound; all raise StoreUnavailable."""

    def __init__(self, client: Client, lifetimes: Lifetimes, envelope: Envelope) -> None:
        self._client = client
        self._envelope = envelope
        self._lifetimes = lifetimes
        self._locks = Locks(client)
        self._lineages = Lineages(client, lifetimes)

    async def create(
        self,
        tenant: str,
        metadata: dict[str, Any],
        items: Sequence[Item],
        minter: ids.Minter,
        *,
        now: int | None = None,
        owner: Owner = None,
    ) -> Conversation:
        """A new conversation, its id the minter's own, with items as ``add_items`` takes them."""
        lineage, created = Lineage(minter.tag), int(time.time()) if now is None else now
        schema = MARKED if owner else self._envelope.schema
        fields: list[str | bytes | int] = ["v", schema, "t", tenant, "u", minter.turn, "c", created]
        fields += ["m", self._metadata(metadata, minter.tag), *owned(owner, self._envelope, minter.tag)]
        final = _with_ids(items, minter)
        entries = self._envelope.entries(final, minter.tag)
        names = [self._envelope.name(item["id"], minter.tag) for item in final]
        await self._lineages.script(
            self._lineages.entry(tenant, lineage.tag, of_conversation=True),
            _CREATE,
            [lineage.conversation, lineage.index, lineage.log(CONVERSATION_LOG)],
            self._lifetimes.conversation,
            self._lifetimes.conversation_log,
            len(fields),
            *fields,
            *(part for pair in zip(names, entries, strict=True) for part in pair),
        )
        return Conversation(minter.own("conv"), created, metadata)

    async def retrieve(self, id_: str, tenant: str) -> Conversation:
        """The conversation; reading does not prolong its life."""
        minted = _parse(id_)
        key = Lineage(minted.tag).conversation
        schema, owner, turn, created, metadata = await self._client.command("HMGET", key, "v", "t", "u", "c", "m")
        if owner is None or owner.decode() != tenant or turn.decode() != minted.turn:
            raise missing(id_)
        self._client.check_schema(key, int(schema))
        return self._conversation(id_, created, metadata)

    async def update(self, id_: str, tenant: str, metadata: dict[str, Any]) -> Conversation:
        """Replaces the metadata."""
        updated = await self._update(id_, tenant, "metadata", [self._metadata(metadata, _parse(id_).tag)])
        assert updated, "metadata is no item"
        return updated

    async def delete(self, id_: str, tenant: str) -> None:
        """Deletes the conversation; responses made in it stay. A turn running on it ends without appending."""
        lineage = Lineage(_parse(id_).tag)
        log = lineage.log(CONVERSATION_LOG)
        keys = [lineage.conversation, lineage.index, log, lineage.lock]
        await self._script(_DELETE, keys, id_, tenant, self._lifetimes.log)

    async def add_items(self, id_: str, tenant: str, items: Sequence[Item]) -> list[Item]:
        """Appends items, all or none, and gives them back as stored.

        A client's id is kept when it is a valid path id and not yet in the conversation nor twice in the batch;
        the others, and those without, get fresh ones.
        """
        lineage = Lineage(_parse(id_).tag)
        minter = ids.Minter(lineage.tag)
        keys = [lineage.conversation, lineage.index, lineage.log(CONVERSATION_LOG), lineage.receipt(minter.turn)]
        final = _with_ids(items, minter)
        while True:
            due = self._lifetimes.conversation_due
            parts = self._added(final, lineage.tag)
            reply = await self._script(_ADD, keys, id_, tenant, *self._ttls, due, *parts)
            if reply in (b"ADDED", b"DUE"):
                if reply == b"DUE":
                    await self._list(tenant, lineage.tag)
                return final
            for n in reply:
                final[n] = {**final[n], "id": minter.item(final[n].get("type", "message"))}

    async def list_items(self, id_: str, tenant: str, page: Page) -> tuple[list[Item], bool]:
        """(items, has_more). Raises InvalidRequest for an unknown cursor."""
        tag = _parse(id_).tag
        cursor = self._envelope.names(page.cursor, tag) if page.cursor else ()
        reply = await self._script(_LIST, self._three(id_), id_, tenant, page.direction, page.limit + 1, *cursor)
        if await self._is_absent(reply, id_, tenant):
            raise page.no_cursor()
        return page.finish(self._envelope.items(reply, tag))

    async def item(self, id_: str, tenant: str, item_id: str) -> Item:
        """One item. Raises NotFound when the conversation does not hold it."""
        tag = _parse(id_).tag
        reply = await self._script(_ITEM, self._three(id_), id_, tenant, *self._envelope.names(item_id, tag))
        if await self._is_absent(reply, id_, tenant):
            raise _missing_item(id_, item_id)
        return self._envelope.items(reply, tag)[0]

    async def delete_item(self, id_: str, tenant: str, item_id: str) -> Conversation:
        """Takes an item out of the conversation; responses that saw it still do. Raises NotFound as ``item`` does."""
        updated = await self._update(id_, tenant, "item", self._envelope.names(item_id, _parse(id_).tag))
        if updated is None:
            raise _missing_item(id_, item_id)
        return updated

    async def past(self, id_: str, tenant: str, *, param: str | None = None) -> Past:
        """The conversation's items now, without its lock: for a turn that will not be stored."""
        reply = await self._past(id_, tenant, "", param)
        return self._made(id_, reply, None)

    @asynccontextmanager
    async def turn(
        self, id_: str, tenant: str, *, wait: float = 0, param: str | None = None, token: str = ""
    ) -> AsyncIterator[Past]:
        """The conversation's items, with its lock for as long as the body runs or until the response is saved.

        ``token``: of the lock, where an earlier process of the same turn had it. Raises InvalidRequest
        ``conversation_locked`` when another turn still has it after ``wait`` seconds.
        """
        minted = _parse(id_, param)
        lock = Lock(Lineage(minted.tag).lock, minted.turn, token)
        async with self._locks.kept(lock):
            reply = await self._take(id_, tenant, lock, wait, param)
            yield self._made(id_, reply, lock)

    async def close(self) -> None:
        """Waits for locks being released."""
        await self._locks.close()

    async def _take(self, id_: str, tenant: str, lock: Lock, wait: float, param: str | None) -> Any:
        clock = asyncio.get_running_loop().time
        until = clock() + wait
        while True:
            lock.held = True  # from here on it may be, whatever becomes of the reply
            try:
                reply = await self._past(id_, tenant, lock.token, param)
            except NotFound:
                lock.held = False
                raise
            if reply != b"BUSY":
                return reply
            lock.held = False
            if clock() >= until:
                raise InvalidRequest(
                    "Another process is currently operating on this conversation. Please retry in a few seconds.",
                    param=param or "conversation",
                    code="conversation_locked",
                )
            with Waiting("store"):
                await asyncio.sleep(_POLL)

    async def _past(self, id_: str, tenant: str, token: str, param: str | None) -> Any:
        keys = [*self._three(id_, param), Lineage(_parse(id_, param).tag).lock]
        return await self._script(_PAST, keys, id_, tenant, token, int(LEASE * 1000), *self._ttls, param=param)

    def _made(self, id_: str, reply: Any, lock: Lock | None) -> Past:
        length, gone, entries, schema = reply
        tag = _parse(id_).tag
        whole(entries, length, Lineage(tag).log(CONVERSATION_LOG))
        items = self._envelope.items(without(entries, gone.decode()), tag)
        return Past(tag, items, CONVERSATION_LOG, length, gone.decode(), None, lock, int(schema))

    async def _update(self, id_: str, tenant: str, what: str, values: Sequence[str | bytes]) -> Conversation | None:
        """None: the item is not there."""
        due, schema = self._lifetimes.conversation_due, self._envelope.schema
        arguments = *self._ttls, due, what, schema, *values
        reply = await self._script(_UPDATE, self._three(id_), id_, tenant, *arguments)
        if await self._is_absent(reply, id_, tenant):
            return None
        created, metadata, unlisted = reply
        if unlisted:
            await self._list(tenant, _parse(id_).tag)
        return self._conversation(id_, created, metadata)

    async def _is_absent(self, reply: Any, id_: str, tenant: str) -> bool:
        """Whether a script says that an item is not there. Raises EncryptionKeyMissing where it perhaps was not found
        because its name was made with a key that is not here.
        """
        if reply == b"UNSURE":
            await self.past(id_, tenant)
        return reply in (b"ABSENT", b"UNSURE")

    def _added(self, items: Sequence[Item], tag: str) -> list[str | bytes | int]:
        """What an addition says of its items: their schema, how many names an id has, names and bytes."""
        parts: list[str | bytes | int] = [self._envelope.schema, self._envelope.spellings]
        for item, entry in zip(items, self._envelope.entries(items, tag), strict=True):
            parts += [*self._envelope.names(item["id"], tag), entry]
        return parts

    def _metadata(self, metadata: dict[str, Any], tag: str) -> bytes:
        return self._envelope.wrap(codec.dumps(metadata), tag, METADATA)

    def _conversation(self, id_: str, created: bytes, metadata: bytes) -> Conversation:
        text = self._envelope.unwrap(metadata, _parse(id_).tag, METADATA)
        return Conversation(id_, int(created), codec.loads(text))

    async def _list(self, tenant: str, tag: str) -> None:
        """At most once an hour, and only for its owner: a list tells whose a lineage is."""
        await self._lineages.add(self._lineages.entry(tenant, tag, of_conversation=True))

    async def _script(
        self, script: Script, keys: Sequence[str], id_: str, tenant: str, *args: Any, param: str | None = None
    ) -> Any:
        reply = await self._client.script(script, keys, tenant, _parse(id_, param).turn, *args)
        if reply is None:
            raise missing(id_, param)
        return reply

    @property
    def _ttls(self) -> tuple[int, int]:
        return self._lifetimes.conversation, self._lifetimes.conversation_log

    @staticmethod
    def _three(id_: str, param: str | None = None) -> list[str]:
        lineage = Lineage(_parse(id_, param).tag)
        return [lineage.conversation, lineage.index, lineage.log(CONVERSATION_LOG)]


def _parse(id_: str, param: str | None = None) -> ids.Minted:
    minted = ids.of_kind(id_, "conv")
    if minted is None:
        raise missing(id_, param)
    return minted


def missing(id_: str, param: str | None = None) -> NotFound:
    """The error for a conversation that there is not."""
    return NotFound(f"Conversation with id '{id_}' not found.", param=param)


def _missing_item(id_: str, item_id: str) -> NotFound:
    return NotFound(f"Item with id '{item_id}' not found in conversation '{id_}'.")


def _with_ids(items: Sequence[Item], minter: ids.Minter) -> list[Item]:
    """The items with ids that are valid and differ; nothing else is changed."""
    final, seen = list[Item](), set[str]()
    for item in items:
        id_ = item.get("id")
        if not isinstance(id_, str) or not ids.is_path_id(id_) or id_ in seen:
            id_ = minter.item(item.get("type", "message"))
        seen.add(id_)
        final.append({**item, "id": id_})
    return final
