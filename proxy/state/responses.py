"""Stored responses: saved by one script, their history read by one script, however long the chain."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial
from math import inf
from typing import Any

from proxy import ids
from proxy.errors import LockLost, RunCancelled, RunLost, StatecarError, StoreUnavailable
from proxy.state import records
from proxy.state.client import Call, Client, Script
from proxy.state.envelope import MODEL, Envelope
from proxy.state.index import OTHER, Listed, TenantIndex
from proxy.state.keys import CONVERSATION_LOG, KEY_TTL, PLAIN, Lifetimes, Lineage
from proxy.state.lineages import Lineages
from proxy.state.owners import Owners, Sees, owner_of
from proxy.state.page import Page
from proxy.state.past import Item, Items, Past, whole, without
from proxy.state.records import Draft, Stored
from proxy.state.runs import Run, about_events, decode_run, paired

_HISTORY = Script("history")
_SAVE = Script("save", vital=True)
_LOAD = Script("load")
_MODELS = Script("models")
_TOUCH = Script("touch")
_DELETE = Script("delete")
_ITEMS = Script("items")

_LOADED, _LOOKED_THROUGH = 100, 500
"""Responses taken from a list at a time: to be loaded; to be asked for their model first."""

_NEWER = b"NEWER"


class Responses:
    """Verbs on stored responses. A foreign id is answered as a missing one; all raise StoreUnavailable."""

    def __init__(self, client: Client, lifetimes: Lifetimes, log_ttl: int, envelope: Envelope) -> None:
        self._client = client
        self._envelope = envelope
        self._lifetimes = lifetimes
        self._log_ttl = log_ttl
        self._index = TenantIndex(client, lifetimes)
        self._lineages = Lineages(client, lifetimes)
        self._owners = Owners(client, envelope)
        self._saved = -inf

    async def history(self, id_: str, tenant: str, sees: Sees | None = None) -> Past | None:
        """What a turn continues from that names this response; None when there is none, or not for ``sees``.

        Using it so keeps it alive, with its whole path; that is written at most once an hour. Raises StatecarError
        when the stored history is shorter than recorded.
        """
        minted = ids.of_kind(id_, "resp")
        if not minted:
            return None
        return await self._past(minted, Lineage(minted.tag).record(minted.turn), tenant, until="e", sees=sees)

    async def past_of_run(self, run: Run) -> Past | None:
        """What a run continues from, read again from where it lies, whether or not the response before it has been
        deleted; None when the run has gone. Raises StatecarError when not all of it is there.
        """
        minted = ids.of_kind(run.id, "resp")
        assert minted, "runs are named by ids of ours"
        return await self._past(minted, Lineage(minted.tag).run(minted.turn), run.tenant, until="e", erased=False)

    async def context(self, id_: str, tenant: str, sees: Sees | None = None) -> Items | None:
        """Everything the response's model saw, oldest first; None and errors as of ``history``."""
        minted = ids.of_kind(id_, "resp")
        if not minted:
            return None
        past = await self._past(minted, Lineage(minted.tag).record(minted.turn), tenant, until="p", sees=sees)
        return past.items if past else None

    async def save(self, draft: Draft) -> None:
        """Stores the response and appends its items, in one step; saving it again changes nothing.

        Input items whose ids meanwhile stand in the conversation get fresh ones, in ``draft.input``. Raises LockLost
        when the turn's lock on its conversation has expired; for the end of a run RunLost, and RunCancelled when it may
        only be saved as cancelled; then nothing is stored.
        """
        if not self._client.is_cluster:
            await self._write(draft, self._index.entry(draft))
        else:  # the list belongs to a server of its own
            listing = asyncio.create_task(self._index.add(draft))
            try:
                await self._write(draft, None)
            finally:
                await listing
        self._saved = asyncio.get_running_loop().time()

    def saved_within(self, seconds: float) -> bool:
        """Whether a save has succeeded so recently that the store need not be asked whether it takes one."""
        return asyncio.get_running_loop().time() - self._saved < seconds

    async def load(self, id_: str, tenant: str) -> Stored | None:
        """The response with its own items; None when there is none."""
        minted = ids.of_kind(id_, "resp")
        reply = await self._read(minted, tenant, in_flight=False) if minted else None
        if minted is None or reply is None:
            return None
        return records.decode_stored(minted.tag, minted.turn, reply, self._envelope)

    async def find(self, id_: str, tenant: str) -> Stored | Run | None:
        """The response, or the run that will become it; None when there is neither."""
        minted = ids.of_kind(id_, "resp")
        reply = await self._read(minted, tenant, in_flight=True) if minted else None
        if minted is None or reply is None:
            return None
        return (
            decode_run(id_, paired(reply[0]), self._envelope)
            if len(reply) == 1
            else records.decode_stored(minted.tag, minted.turn, reply, self._envelope)
        )

    async def delete(self, id_: str, tenant: str) -> int | None:
        """Deletes a response; the bytes this frees, None when there is none. What was built on it keeps working."""
        minted = ids.of_kind(id_, "resp")
        if not minted:
            return None
        lineage = Lineage(minted.tag)
        # A writing script must declare its keys, and only the record knows its log; that never changes.
        log = await self._client.command("HGET", lineage.record(minted.turn), "l")
        if log is None:
            return None
        name = log.decode()
        keys = [lineage.record(minted.turn), lineage.log(name), lineage.meta]
        reply: int | None = await self._client.script(_DELETE, keys, tenant, name, int(name == CONVERSATION_LOG))
        if reply is None:
            return None
        await self._client.command("DEL", lineage.events(minted.turn))
        await self._index.remove(tenant, id_)
        return reply

    async def list(self, tenant: str, page: Page, model: str | None, sees: Sees | None = None) -> Listed:
        """(responses, has_more) of a tenant by time of creation, of those that ``sees`` lets through, None for all.

        Raises InvalidRequest for an unknown cursor.
        """

        async def load(listed: Sequence[str]) -> Sequence[Stored | str | None]:
            found: dict[str, Stored | str | None] = dict.fromkeys(listed, OTHER)
            shown: Sequence[str] = listed
            if model:
                dead, shown = await self._of_model(listed, tenant, model)
                found |= dict.fromkeys(dead)
            if sees and shown:
                hidden = await self._owners.hidden(shown, tenant, sees)
                shown = [id_ for id_ in shown if id_ not in hidden]
            many = page.limit + 1
            for at in range(0, len(shown), many):
                part = shown[at : at + many]
                found |= zip(part, await asyncio.gather(*(self.load(id_, tenant) for id_ in part)), strict=True)
                if sum(isinstance(one, Stored) for one in found.values()) >= many:
                    break
            return list(found.values())

        if sees and page.cursor is not None:
            kept = await self._owners.of(page.cursor, tenant)
            if kept is None or not sees(page.cursor, kept.owner):
                raise page.no_cursor()
        return await self._index.page(tenant, page, load, _LOOKED_THROUGH if model else _LOADED)

    async def items(self, ids_: Iterable[str], tenant: str, sees: Sees | None = None) -> dict[str, Item]:
        """The items with these ids, as far as they were minted here and are still stored; resolving counts as use.

        ``sees``: of which responses and conversations, None for all.
        """
        turns: dict[tuple[str, str], list[str]] = {}
        for id_ in ids_:
            if minted := ids.parse(id_):
                turns.setdefault((minted.tag, minted.turn), []).append(id_)
        found = await asyncio.gather(*(self._items(*turn, wanted, tenant, sees) for turn, wanted in turns.items()))
        return {id_: item for part in found for id_, item in part.items()}

    async def _past(
        self,
        minted: ids.Minted,
        key: str,
        tenant: str,
        *,
        until: str,
        erased: bool = True,
        sees: Sees | None = None,
    ) -> Past | None:
        """``erased``: entries that a deletion has erased may be missing."""
        lineage = Lineage(minted.tag)
        keys = [key, lineage.meta, lineage.texts]
        due = self._lifetimes.record_due, self._lifetimes.log_due
        reply = await self._client.script(_HISTORY, keys, tenant, lineage.logs, until, *due)
        if reply is None:
            return None
        status, log, length, gone, touch, segments, owner, schema = reply
        if sees and not sees(f"resp_{minted.tag}{minted.turn}0000", owner_of([owner], self._envelope, minted.tag)):
            return None
        entries: list[bytes] = []
        for name, recorded, missing, part in reversed(segments):
            where = lineage.log(name.decode())
            entries += without(whole(part, int(recorded), where), missing.decode())
        if not erased and not all(entries):
            raise StatecarError("What this response continues from was deleted before it was made.")
        if touch and until == "e":
            await self._touch_path(tenant, lineage, minted.turn, [segment[0] for segment in segments])
        items = self._envelope.items(entries, minted.tag)
        ended = status and status.decode()
        return Past(minted.tag, items, log.decode(), int(length), gone.decode(), ended, schema=int(schema))

    async def _touch_path(self, tenant: str, lineage: Lineage, turn: str, logs: Sequence[bytes]) -> None:
        keys = [lineage.record(turn), lineage.meta, lineage.texts, *(lineage.log(name.decode()) for name in logs)]
        # without an expiry, a conversation's log is the conversation's for ever
        entry = self._lineages.entry(tenant, lineage.tag, of_conversation=False)
        await self._touch(entry, keys, self._lifetimes.response, self._lifetimes.log, lineage.log(CONVERSATION_LOG))

    async def _touch(self, entry: Call, keys: Sequence[str], ttl: int, rest: int, forever: str) -> None:
        try:
            await self._lineages.script(entry, _TOUCH, keys, ttl, rest, forever)
        except StoreUnavailable:
            pass  # already logged; the next use tries again

    async def _write(self, draft: Draft, beside: Call | None) -> None:
        past = draft.past
        carried = past.items if past.log is None else []  # stored nowhere, so it goes in with the response
        while True:
            reply = await self._client.script(_SAVE, *self._save_arguments(draft, past, carried), beside=beside)
            if reply == b"SAVED":
                if past.lock:
                    past.lock.held = False  # released in the same step
                return
            if reply == b"TAKEN":
                raise RunLost("Another process makes this response.")
            if reply == b"CANCELLED":
                raise RunCancelled("The response was cancelled.")
            if reply == b"LOST":
                raise LockLost("The conversation's lock was lost while the response was generated.")
            if reply == b"ORPHAN":  # expired in mid-turn: the response then carries what its model saw
                past, carried = Past.none(past.tag), past.items
                continue
            for n in reply:
                if n >= len(draft.input):  # somebody watched the stream and added an item with our id
                    raise StatecarError("An item with the id of an output item was added to the conversation.")
                item = draft.input[n]
                draft.input[n] = {**item, "id": draft.minter.item(item["type"])}

    def _save_arguments(self, draft: Draft, past: Past, carried: Items) -> tuple[Sequence[str], *tuple[Any, ...]]:
        lineage, turn, lock = Lineage(past.tag), draft.minter.turn, past.lock
        append = draft.append and (past.log != CONVERSATION_LOG or lock is not None)
        keys = [lineage.record(turn), lineage.log(past.log or turn), lineage.log(turn), lineage.meta, lineage.texts]
        if lock:
            keys += [lineage.conversation, lineage.index, lineage.lock]
        token, first, log_ttl = "", 0, self._log_ttl
        events: Sequence[bytes] = ()
        if end := draft.end:
            keys += [lineage.run(turn), lineage.lease(turn), lineage.events(turn)]
            token, first = end.lease.token, end.first
            events = self._envelope.wrapped(end.events, past.tag, about_events(turn))
            log_ttl = max(log_ttl, KEY_TTL) if log_ttl and end.keyed else log_ttl
        items = [*carried, *draft.input, *draft.output]
        fields, texts = records.encode(draft, self._envelope)
        stored = self._envelope.entries(items, past.tag)
        if draft.admission:
            ttl = self._lifetimes.conversation_log if lock else self._lifetimes.log
            draft.admission.kept = past.tag, sum(map(len, stored)) + _size(fields) + _size(texts), ttl
        return (
            keys,
            turn,
            past.log or "",
            past.length,
            past.gone,
            "x" if draft.status == "cancelled" else int(append),
            self._lifetimes.response,
            self._lifetimes.log,
            self._lifetimes.conversation,
            lock.token if lock else "",
            len(carried),
            len(draft.input),
            len(draft.output),
            len(fields),
            len(texts),
            token,
            log_ttl,
            first,
            len(events),
            self._envelope.spellings,
            *fields,
            *texts,
            *events,
            *stored,
            *([name for item in items for name in self._envelope.names(item["id"], past.tag)] if lock else ()),
        )

    async def _of_model(self, listed: Sequence[str], tenant: str, model: str) -> tuple[Sequence[str], Sequence[str]]:
        """Of these responses those that are not there any more, and those that are of a model. Raises as
        ``Envelope.unwrap`` where that cannot be known of one.
        """
        if not listed:
            return [], []
        minted = {id_: ids.of_kind(id_, "resp") for id_ in listed}
        names = {id_: Lineage(one.tag).record(one.turn) for id_, one in minted.items() if one}
        batches = [[name] for name in names.values()] if self._client.is_cluster else [list(names.values())]
        replies = await asyncio.gather(*(self._client.script(_MODELS, batch, tenant) for batch in batches))
        found: dict[str, bytes | None] = dict.fromkeys(listed)
        found |= zip(names, (one for reply in replies for one in reply), strict=True)
        asked = set(records.models(model, tenant, self._envelope))
        alike = {_NEWER}  # which is refused when it is loaded
        for kept in {one for one in found.values() if one} - alike:
            schema, _, name = kept.partition(b" ")
            if name in asked:
                alike.add(kept)
            elif int(schema) > PLAIN:
                self._envelope.unwrap(name, tenant, MODEL)
        dead = [id_ for id_, kept in found.items() if kept is None]
        return dead, [id_ for id_, kept in found.items() if kept in alike]

    async def _read(self, minted: ids.Minted, tenant: str, *, in_flight: bool) -> Any:
        lineage = Lineage(minted.tag)
        keys = [lineage.record(minted.turn), lineage.texts]
        if in_flight:
            keys.append(lineage.run(minted.turn))
        return await self._client.script(_LOAD, keys, tenant, lineage.logs)

    async def _items(
        self, tag: str, turn: str, wanted: Sequence[str], tenant: str, sees: Sees | None
    ) -> dict[str, Item]:
        lineage, life = Lineage(tag), self._lifetimes
        keys = [lineage.record(turn), lineage.meta, lineage.texts, lineage.conversation, lineage.index]
        due = life.record_due, life.log_due, life.conversation_due
        names = [name for id_ in wanted for name in self._envelope.names(id_, tag)]
        own, logs, found, conversation_touch, owner, its_owner, its_turn = await self._client.script(
            _ITEMS, keys, tenant, lineage.logs, *due, CONVERSATION_LOG, *names
        )
        unwrapped = partial(owner_of, envelope=self._envelope, tag=tag)
        if sees and not sees(f"resp_{tag}{turn}0000", unwrapped([owner])):
            own, logs = [], []
        if sees and its_turn and not sees(f"conv_{tag}{its_turn.decode()}0000", unwrapped([its_owner])):
            found, conversation_touch = [], 0
        items = {item["id"]: item for item in self._envelope.items(found, tag)}
        items |= {item["id"]: item for item in self._envelope.items(own, tag) if item.get("id") in wanted}
        if logs and items:
            await self._touch_path(tenant, lineage, turn, logs)
        if conversation_touch:
            held = [lineage.conversation, lineage.index, lineage.log(CONVERSATION_LOG)]
            entry = self._lineages.entry(tenant, tag, of_conversation=True)
            await self._touch(entry, held, life.conversation, life.conversation_log, "")
        return items


def _size(parts: Iterable[str | bytes | int]) -> int:
    """The bytes that these take in the store."""
    return sum(len(str(part) if isinstance(part, int) else part) for part in parts)
