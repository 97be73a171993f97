"""The lines of an archive put into a store: a lineage by one script, all of it or nothing, never over what is there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from proxy import codec, ids
from proxy.principals import Principal
from proxy.state import keys, records
from proxy.state.archive import Line
from proxy.state.client import Client, Script
from proxy.state.envelope import METADATA, Envelope
from proxy.state.export import Count
from proxy.state.index import TenantIndex
from proxy.state.keys import CONVERSATION_LOG, MARKED, Lineage
from proxy.state.lineages import Lineages
from proxy.state.owners import owned
from proxy.state.past import Item, Past
from proxy.state.runs import about_events
from proxy.state.sweep import Sweep

_IMPORT = Script("import")

_Arg = str | bytes | int

Outcome = Literal["written", "there", "foreign", "expired"]
"""What became of a line. ``there``: nothing of it was written, as the store has some of it; ``foreign``: it is another
tenant's there; ``expired``: its time is over."""


class Restore:
    """Writes lines as what a tenant has. All raise StoreUnavailable."""

    def __init__(
        self, client: Client, lineages: Lineages, index: TenantIndex, sweep: Sweep, envelope: Envelope
    ) -> None:
        self._client, self._lineages, self._index, self._sweep = client, lineages, index, sweep
        self._tenant, self._envelope = sweep.tenant, envelope
        self._others = set[int]()
        self.count = Count()

    async def begin(self) -> None:
        """Finds out which lineages are other tenants'. A line can name one of these and keys that it has not got; what
        came of it would be theirs as well as ours, for exports and purges too.
        """
        async for tags in self._sweep.others():
            self._others.update(int(tag, 16) for tag in tags)

    @property
    def has_others(self) -> bool:
        """Whether there are any."""
        return bool(self._others)

    async def put(self, line: Line) -> Outcome:
        """Writes a lineage or a key. Raises ValueError for what cannot be stored."""
        return await (self._lineage if line["type"] == "lineage" else self._key)(line)

    async def _key(self, line: Line) -> Outcome:
        if _over(line):
            return "expired"
        value = line["body"] + line["response"]
        until: list[_Arg] = ["PXAT", line["expires_at"]] if line["expires_at"] is not None else []
        reply = await self._client.command("SET", keys.key_name(self._tenant, line["key"]), value, "NX", *until)
        self.count.keys += bool(reply)
        return "written" if reply else "there"

    async def _lineage(self, line: Line) -> Outcome:
        if int(line["tag"], 16) in self._others:
            return "foreign"
        now_held = _Parts(line, self._tenant, self._envelope)
        if not now_held.keys:
            return "expired"
        reply = await self._client.script(_IMPORT, now_held.keys, *now_held.arguments)
        written = reply == b"WRITTEN"
        there = now_held.keys if written else [now_held.keys[n] for n in reply]
        # beside its lineage, in another slot; once more where an earlier import was cut off in between
        if now_held.of_conversation and any(name in now_held.owned for name in there):
            await self._lineages.add(self._lineages.entry(self._tenant, line["tag"], of_conversation=True))
        for one in now_held.responses:
            if Lineage(line["tag"]).record(_turn(one)) in there:  # which lists its lineage too
                await self._index.restore(self._tenant, one["id"], one["listed_at"], _left(one))
        if written:
            self.count.lineages += 1
            self.count.responses += len(now_held.responses)
            self.count.conversations += now_held.has_conversation
        return "written" if written else "there"


class _Parts:
    """The keys of a lineage with what is to fill each, without those whose time is over. ``owned``: those among them
    that say whose they are.
    """

    def __init__(self, line: Line, tenant: str, envelope: Envelope) -> None:
        self._envelope = envelope
        self.keys: list[str] = []
        self.arguments: list[_Arg] = []
        self.owned: set[str] = set()
        self._line, self._tenant, self._lineage = line, tenant, Lineage(line["tag"])
        self.responses = [one for one in line["responses"] if not _over(one)]
        conversation = line["conversation"]
        self.has_conversation = conversation is not None and not _over(conversation)
        self.of_conversation = any(log["name"] == CONVERSATION_LOG for log in line["logs"]) or self.has_conversation
        if self.has_conversation:
            self._conversation(conversation)
        texts: dict[bytes, bytes] = {}
        for one in self.responses:
            texts |= self._response(one)
        self._add(
            self._lineage.texts, "HSET", line["texts_expire_at"], [part for pair in texts.items() for part in pair]
        )
        if any(not _over(log) for log in line["logs"] if log["items"]) or self.keys:
            self._logs()

    def _add(self, key: str, command: str, expiry: int | None, arguments: Sequence[_Arg]) -> None:
        """Nothing where there is nothing to hold, or not any more."""
        if arguments and not _over({"expires_at": expiry}):
            self.keys.append(key)
            self.arguments += [command, expiry or 0, len(arguments), *arguments]

    def _logs(self) -> None:
        links: list[_Arg] = []
        for log in self._line["logs"]:
            name = log["name"]
            entries = [self._entry(item) if item is not None else b"" for item in log["items"]]
            self._add(self._lineage.log(name), "RPUSH", log["expires_at"], entries)
            if parent := log.get("parent"):
                links += [f"p:{name}", f"{parent['log']}|{parent['length']}|{parent['gone']}"]
            if "floor" in log:
                links += [f"f:{name}", log["floor"]]
        self._add(self._lineage.meta, "HSET", self._line["links_expire_at"], links)

    def _response(self, one: Line) -> dict[bytes, bytes]:
        """The texts that it shares with others, by their hashes."""
        body = one["body"] | {name: self._line["texts"][at] for name, at in one["texts"].items()}
        minted = ids.parse(one["id"])
        assert minted, "lines are checked"
        draft = records.Draft(
            id=one["id"],
            tenant=self._tenant,
            status=one["status"],
            model=one["model"],
            created_at=one["created_at"],
            body=body,
            input=[],
            output=[],
            past=Past.none(minted.tag),
            append=False,
            minter=ids.Minter.again(minted, 0),
            conversation=one["conversation"],
            owner=_owner(one),
        )
        fields, texts = records.encode(draft, self._envelope)
        fields += ["l", one["log"], "s", one["start"], "p", one["split"], "e", one["end"]]
        fields += ["g", one["gone"]] if one["gone"] else []
        fields += ["o", 1] if one["logged"] else []
        name = self._lineage.record(minted.turn)
        self._add(name, "HSET", one["expires_at"], fields)
        self.owned.add(name)
        if events := one.get("events"):
            frames = [frame.encode() for frame in events["frames"]]
            wrapped = self._envelope.wrapped(frames, minted.tag, about_events(minted.turn))
            self._add(self._lineage.events(minted.turn), "XADD", events["expires_at"], wrapped)
        return dict(zip(texts[::2], texts[1::2], strict=True))

    def _conversation(self, one: Line) -> None:
        owner = _owner(one)
        schema = MARKED if owner else self._envelope.schema
        metadata = self._envelope.wrap(codec.dumps(one["metadata"]), self._lineage.tag, METADATA)
        fields: list[_Arg] = ["v", schema, "t", self._tenant, "u", _turn(one)]
        fields += ["c", one["created_at"], "m", metadata, *owned(owner, self._envelope, self._lineage.tag)]
        self._add(self._lineage.conversation, "HSET", one["expires_at"], fields)
        self.owned.add(self._lineage.conversation)
        items: list[Any] = next((log["items"] for log in self._line["logs"] if log["name"] == CONVERSATION_LOG), [])
        name = partial(self._envelope.name, tag=self._lineage.tag)
        named = [part for at in one["items"] for part in (at, name(items[at]["id"]))]
        self._add(self._lineage.index, "ZADD", one["expires_at"], named)

    def _entry(self, item: Item) -> bytes:
        return self._envelope.entries([item], self._lineage.tag)[0]


def _owner(one: Line) -> Principal | None:
    return Principal.decoded(codec.dumps(one["owner"])) if one["owner"] else None


def _turn(one: Line) -> str:
    minted = ids.parse(one["id"])
    assert minted, "lines are checked"
    return minted.turn


def _over(line: Line) -> bool:
    """Whether its time is over, or so nearly that it cannot be told to the store."""
    expiry: Any = line["expires_at"]
    return expiry is not None and expiry <= time.time() * 1000 + 100


def _left(line: Line) -> int:
    """Seconds it has left, 0 for ever."""
    expiry = line["expires_at"]
    return 0 if expiry is None else max(1, -(-int(expiry - time.time() * 1000) // 1000))
