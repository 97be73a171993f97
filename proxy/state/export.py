"""What is kept of a tenant as lines of an archive, whatever the form in which the store holds it."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from proxy import codec
from proxy.errors import NotFound, StatecarError
from proxy.principals import Principal
from proxy.state import keys, records
from proxy.state.archive import Line
from proxy.state.client import Client, Script
from proxy.state.conversations import Conversations
from proxy.state.envelope import ITEM, Envelope
from proxy.state.keys import CONVERSATION_LOG, Lineage
from proxy.state.owners import FIELDS, owner_of
from proxy.state.past import Item
from proxy.state.runs import Runs
from proxy.state.sweep import Sweep, side_by_side

_SNAPSHOT = Script("snapshot")

_AHEAD = 8
"""Lineages that are read at a time."""

_PAGE = 1000
"""Entries of a log, or idempotency keys, read at once."""

_FEW = 32
"""Entries of a log that are read with all else."""


@dataclass(slots=True)
class Count:
    """What an export or an import came to. ``unfinished``: responses in the making, ``damaged``: those of which not all
    is there; both are left out.
    """

    lineages: int = 0
    responses: int = 0
    conversations: int = 0
    keys: int = 0
    unfinished: int = 0
    damaged: int = 0

    @property
    def line(self) -> Line:
        """The last line of an archive."""
        told = {"lineages": self.lineages, "responses": self.responses, "conversations": self.conversations}
        return {"type": "end", **told, "keys": self.keys}


class Export:
    """One tenant's export. All that it raises is StoreUnavailable, and StatecarError for what is damaged."""

    def __init__(
        self, client: Client, sweep: Sweep, conversations: Conversations, runs: Runs, envelope: Envelope
    ) -> None:
        self._client, self._sweep, self._envelope = client, sweep, envelope
        self._conversations, self._runs = conversations, runs
        self._index = keys.tenant_index(sweep.tenant)
        self.count = Count()

    async def lines(self) -> AsyncIterator[Line]:
        """Every lineage in the order of their tags, every idempotency key in the order of theirs, and the last line."""
        await self._sweep.complete()
        ahead: list[tuple[str, list[str]]] = []
        async for found in self._sweep.lineages():
            ahead.append(found)
            if len(ahead) == _AHEAD:
                for line in await self._read(ahead):
                    yield line
                ahead = []
        for last in await self._read(ahead):
            yield last
        names = sorted({name.decode() async for some in self._sweep.own("y:") for name in some})
        for at in range(0, len(names), _PAGE):
            for key in await side_by_side(map(self._key, names[at : at + _PAGE])):
                if key:
                    self.count.keys += 1
                    yield key
        yield self.count.line

    async def _read(self, found: Sequence[tuple[str, list[str]]]) -> list[Line]:
        lineages = await side_by_side(_Held.read(self._client, *one) for one in found)
        members = [bytes.fromhex(held.tag + turn) for held in lineages for turn in held.turns()]
        scores = await self._client.command("ZMSCORE", self._index, *members) if members else []
        listed = {member.hex(): int(score) for member, score in zip(members, scores, strict=True) if score is not None}
        lines = await side_by_side(self._lineage(held, listed) for held in lineages)
        return [line for line in lines if line]

    async def _key(self, name: str) -> Line | None:
        value = await self._client.command("GET", name)
        expiry = await self._client.command("PEXPIRETIME", name)
        if value is None:
            return None
        text = value.decode()
        key = name.rpartition(":")[2]
        return {"type": "key", "key": key, "body": text[:32], "response": text[32:], "expires_at": _time(expiry)}

    async def _lineage(self, held: _Held, listed: dict[str, int]) -> Line | None:
        """``listed``: when, by tag and turn. None where nothing is left of it that anybody could ask for."""
        self.count.unfinished += held.unfinished
        logs = {name: await held.entries(name) for name in held.logs()}
        texts = _Texts()
        responses = []
        for turn in held.turns():
            try:
                responses.append(await self._response(held, turn, logs, texts, listed))
            except StatecarError as exc:
                if exc.code != "history_damaged":
                    raise
                self.count.damaged += 1
        line = {
            "type": "lineage",
            "tag": held.tag,
            "logs": [self._log(held, name, entries) for name, entries in logs.items()],
            "links_expire_at": held.expiry("m"),
            "texts": texts.values,
            "texts_expire_at": held.expiry("x"),
            "conversation": await self._conversation(held),
            "responses": sorted(responses, key=lambda one: (one["listed_at"], one["id"])),
        }
        if not responses and not line["conversation"]:
            return None
        self.count.lineages += 1
        self.count.responses += len(responses)
        self.count.conversations += bool(line["conversation"])
        return line

    def _log(self, held: _Held, name: str, entries: list[bytes]) -> Line:
        opened = self._envelope.unwrapped(entries, held.tag, ITEM)
        items: list[Item | None] = [codec.loads(entry) if entry else None for entry in opened]
        line: Line = {"name": name, "items": items, "expires_at": held.expiry(f"l:{name}")}
        links = held.fields("m")
        if pointer := links.get(f"p:{name}".encode()):
            parent, length, gone = pointer.decode().split("|")
            line["parent"] = {"log": parent, "length": int(length), "gone": gone}
        if floor := links.get(f"f:{name}".encode()):
            line["floor"] = int(floor)
        return line

    async def _response(
        self, held: _Held, turn: str, logs: dict[str, list[bytes]], texts: _Texts, listed: dict[str, int]
    ) -> Line:
        fields = held.fields(f"r:{turn}")
        self._client.check_schema(held.lineage.record(turn), int(fields[b"v"]))
        log = fields[b"l"].decode()
        start, split, end = (int(fields[name]) for name in (b"s", b"p", b"e"))
        stored = records.decode_stored(
            held.tag, turn, (held.flat(f"r:{turn}"), logs[log][start:end], held.shared(turn)), self._envelope
        )
        body, shared = texts.parted(stored.body)
        line = {
            "id": stored.id,
            "log": log,
            "start": start,
            "split": split,
            "end": end,
            "gone": fields.get(b"g", b"").decode(),
            "status": stored.status,
            "model": stored.model,
            "created_at": stored.created_at,
            "conversation": stored.conversation,
            "body": body,
            "texts": shared,
            "owner": _owner(stored.owner),
            "logged": stored.logged,
            "listed_at": listed.get(held.tag + turn, stored.created_at * 1_000_000),
            "expires_at": held.expiry(f"r:{turn}"),
        }
        if stored.logged and (frames := await self._events(stored.id)):
            line["events"] = {"frames": frames, "expires_at": held.expiry(f"e:{turn}")}
        return line

    async def _events(self, id_: str) -> list[str]:
        frames: list[str] = []
        while found := await self._runs.events(id_, len(frames) - 1):
            frames += [frame.decode() for frame in found]
        return frames

    async def _conversation(self, held: _Held) -> Line | None:
        if not (fields := held.fields("c")):
            return None
        id_ = f"conv_{held.tag}{fields[b'u'].decode()}0000"
        try:
            made = await self._conversations.retrieve(id_, self._sweep.tenant)
        except NotFound:
            return None  # deleted just now
        return {
            "id": id_,
            "created_at": made.created_at,
            "metadata": made.metadata,
            "owner": _owner(owner_of(map(fields.get, map(str.encode, FIELDS)), self._envelope, held.tag)),
            "items": sorted(int(float(position)) for position in held.flat("i")[1::2]),
            "expires_at": held.expiry("c"),
        }


class _Key(NamedTuple):
    """``held``: nothing of a long list, which is read by itself; ``length``: of a list."""

    expiry: int
    held: Any
    length: int


_NOTHING = _Key(-1, [], 0)


class _Held:
    """A lineage as its keys are: of each when it expires and what it holds, of lists how much."""

    def __init__(self, client: Client, tag: str, found: dict[str, _Key]) -> None:
        self._client, self.tag, self.lineage, self._found = client, tag, Lineage(tag), found
        pending = {name[2:] for name in found if name.startswith("j:")}
        self.unfinished = len(pending - set(self.turns()))

    @classmethod
    async def read(cls, client: Client, tag: str, rests: Sequence[str]) -> _Held:
        wanted = {rest for rest in rests if rest[:1] in "rlmxcije"}
        # of a run that ends just now there is a response instead
        wanted |= {f"{kind}:{rest[2:]}" for rest in rests if rest.startswith("j:") for kind in "re"}
        names = sorted(wanted)
        reply = await client.script(_SNAPSHOT, [f"sc:{{{tag}}}:{name}" for name in names], _FEW) if names else []
        pairs = zip(names, reply, strict=True)
        return cls(client, tag, {name: _Key(*key) for name, key in pairs if key[0] != -2})

    def turns(self) -> list[str]:
        """Those of responses."""
        return [name[2:] for name in self._found if name.startswith("r:")]

    def logs(self) -> list[str]:
        """The names of the logs that anybody sees something of."""
        links, names = self.fields("m"), {CONVERSATION_LOG} if "c" in self._found else set[str]()
        for turn in self.turns():
            log = self.fields(f"r:{turn}")[b"l"].decode()
            while log and log not in names:
                names.add(log)
                log = links.get(f"p:{log}".encode(), b"").decode().partition("|")[0]
        return sorted(names)

    async def entries(self, log: str) -> list[bytes]:
        """Those that a log held at that moment."""
        key = self._found.get(f"l:{log}", _NOTHING)
        length, entries = key.length, list(key.held)
        while len(entries) < length:
            last = min(len(entries) + _PAGE, length) - 1
            part = await self._client.command("LRANGE", self.lineage.log(log), len(entries), last)
            if not part:
                raise StatecarError(f"Lineage {self.tag} expired while it was read. Please begin again.")
            entries += part
        return entries

    def flat(self, name: str) -> list[bytes]:
        """Fields and values, or members and scores."""
        held: list[bytes] = self._found.get(name, _NOTHING).held
        return held

    def fields(self, name: str) -> dict[bytes, bytes]:
        flat = self.flat(name)
        return dict(zip(flat[::2], flat[1::2], strict=True))

    def shared(self, turn: str) -> list[bytes | None]:
        """The texts that a record names, as a load script answers them."""
        texts = self.fields("x")
        named = {field: digest for field, digest in self.fields(f"r:{turn}").items() if field.startswith(b"x:")}
        return [part for field, digest in named.items() for part in (field, texts.get(digest))]

    def expiry(self, name: str) -> int | None:
        return _time(self._found.get(name, _NOTHING).expiry)


class _Texts:
    """Long values that many responses of a lineage share, each once."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[bytes, int] = {}

    def parted(self, body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
        """(the body without them, where each lies)."""
        rest, places = dict(body), dict[str, int]()
        for name in records.SHARED:
            text = codec.dumps(body[name]) if name in body else b""
            if len(text) > records.LONG:
                digest = hashlib.blake2b(text, digest_size=16).digest()
                if digest not in self._places:
                    self._places[digest] = len(self.values)
                    self.values.append(body[name])
                places[name] = self._places[digest]
                del rest[name]
        return rest, places


def _owner(owner: Principal | None) -> Any:
    return codec.loads(owner.encoded()) if owner else None


def _time(expiry: int) -> int | None:
    """Milliseconds since the epoch, None for never."""
    return expiry if expiry > 0 else None
