"""Runs: responses in the making that outlive the request they came with, and the log of what was told of them.

A run holds all that it takes to make its response; its lease says which process does, and a process that dies loses it.
The finished response takes the run's place in one step (``Responses.save``): until then there is a run and no response.
"""

from __future__ import annotations

import functools
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any

from proxy import codec, ids
from proxy.errors import LogFull, RunCancelled, RunLost, StatecarError, StoreUnavailable, TooManyRuns
from proxy.grants import Quota
from proxy.rules import Owner
from proxy.state.client import Client, Script
from proxy.state.envelope import Envelope
from proxy.state.keys import CONVERSATION_LOG, MARKED, PLAIN, RUNS, STOPS, Lifetimes, Lineage
from proxy.state.owners import FIELDS, owned, owner_of
from proxy.state.past import Item, Place

_ADMIT = Script("run_admit")
_APPEND = Script("run_append", vital=True)
_CANCEL = Script("run_cancel")
_CLAIM = Script("run_claim")
_CREATE = Script("run_create")
_DROP = Script("run_drop")
_HOLD = Script("run_hold", vital=True)
_KEEP = Script("run_keep", vital=True)
_RELEASE = Script("run_release", vital=True)

_READ = 1000
"""Events read at once."""

BLOCK = 500
"""Milliseconds a reader waits for the next event."""

_KEPT = "+"
"""How the names of fields begin that hold what is kept beside a run."""

Done = Callable[[StatecarError | None], object]
"""Takes how something went that nobody waited for."""

_LAST = 1 << 62
"""A greater number than any event has."""


@dataclass(frozen=True, slots=True)
class Run:
    """A response in the making. ``request``: as ``wire.create_response`` gives it, of its input only what is not in
    ``given``: its items with their ids.

    ``headers``: what is to go upstream, as text, perhaps sealed. ``claims``: how many processes have taken it up;
    ``began``: an upstream has; ``cancelled``: somebody wants it to end. ``lock``: the token of its conversation's lock.
    ``past``: where what it continues from lies. ``keyed``: it stands for an idempotency key.
    ``secrets``: what its tools need and nobody may read, as text, perhaps sealed. ``quota``: of its tenant.
    ``kept``: what its events do not tell and only who goes on with it needs, by names. ``owner``: whose it is, and its
    response will be.
    """

    id: str
    tenant: str
    created_at: int
    request: dict[str, Any]
    given: list[Item]
    headers: str = ""
    lock: str = ""
    past: Place | None = None
    claims: int = 0
    began: bool = False
    cancelled: bool = False
    keyed: bool = False
    secrets: str = ""
    quota: Quota | None = None
    kept: dict[str, Any] = field(default_factory=dict)
    owner: Owner = None

    @property
    def whole_request(self) -> dict[str, Any]:
        """The request with all of its input."""
        return {**self.request, "input": [*self.given, *self.request["input"]]}


@dataclass(slots=True)
class Lease:
    """A process's hold on a run."""

    run: str
    token: str = field(default_factory=lambda: secrets.token_hex(16))


@dataclass(frozen=True, slots=True)
class End:
    """The end of a run, with its response's save. ``events``: its last ones, from number ``first`` on.

    ``keyed``: they are kept for as long as the response stands for its idempotency key.
    """

    lease: Lease
    first: int
    events: Sequence[bytes]
    keyed: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """Most runs, of all and of a tenant, 0 for no limit; seconds of a lease; bytes of a log, seconds it is kept.

    ``followers``: most readers that wait for events at a time, on a connection each. ``longest``: seconds a run may
    take, whoever makes it.
    """

    runs: int = 1000
    tenant_runs: int = 100
    lease: float = 15.0
    log_bytes: int = 64 * 1024 * 1024
    log_ttl: int = 3600
    followers: int = 1000
    longest: int = 4000


class Runs:
    """Verbs on runs. A foreign id is answered as a missing one; all raise StoreUnavailable."""

    def __init__(
        self, client: Client, waiting: Client, lifetimes: Lifetimes, limits: Limits, envelope: Envelope
    ) -> None:
        """``waiting``: the client of all that waits for news, so that nothing else waits for a connection."""
        self._envelope = envelope
        self._client, self._waiting, self._lifetimes, self.limits = client, waiting, lifetimes, limits
        self._ttl = lifetimes.response and max(lifetimes.response, limits.longest)
        """Seconds a run is kept: longer than it can take, takeovers included, however short responses live."""

    async def create(self, run: Run, lease: Lease | None) -> None:
        """Keeps a run. ``lease``: of a process that makes the response at once; None leaves that to any.

        Raises TooManyRuns.
        """
        due = self._in(self.limits.lease) if lease else self._in(0)
        most = self.limits.runs, self.limits.tenant_runs
        reply = await self._client.script(_ADMIT, [RUNS], _member(run.id, run.tenant), run.tenant, due, *most)
        if reply != b"ADMITTED":
            raise TooManyRuns(of_tenant=reply == b"TENANT")
        fields: dict[str, str | bytes | int] = {
            "v": MARKED if run.owner else max(run.past.schema if run.past else PLAIN, self._envelope.schema),
            "t": run.tenant,
            "c": run.created_at,
            "q": self._wrapped(run.id, codec.dumps(run.request)),
            "i": self._wrapped(run.id, codec.dumps(run.given)),
            "h": self._wrapped(run.id, run.headers.encode()),
            "k": run.lock,
        }
        fields |= {name: 1 for name, is_so in (("b", run.began), ("y", run.keyed)) if is_so}
        if run.secrets:
            fields["s"] = self._wrapped(run.id, run.secrets.encode())
        if run.quota:
            fields["ql"] = codec.dumps(astuple(run.quota))
        if run.past:
            fields |= {"l": run.past.log, "e": run.past.length, "g": run.past.gone}  # as of a record
        lineage = _lineage(run.id)[0]
        flat = [part for pair in fields.items() for part in pair]
        flat += owned(run.owner, self._envelope, lineage.tag)
        keys = [*self._keys(run.id)[:2], lineage.meta]
        branched = run.past if run.past and run.past.log != CONVERSATION_LOG else None  # there nothing is erased
        place = (branched.log, branched.length) if branched else ("", 0)
        token = lease.token if lease else ""
        await self._client.script(_CREATE, keys, self._ttl, token, self._lease_ms, *place, self._lifetimes.log, *flat)

    async def load(self, id_: str, tenant: str) -> Run | None:
        """The run, while there is one."""
        minted = ids.of_kind(id_, "resp")
        if not minted:
            return None
        key = Lineage(minted.tag).run(minted.turn)
        flat = await self._client.command("HGETALL", key)
        if not flat or flat.get(b"t") != tenant.encode():
            return None
        self._client.check_schema(key, int(flat[b"v"]))
        return decode_run(id_, flat, self._envelope)

    async def exists(self, id_: str) -> bool:
        """Whether there is such a run."""
        return bool(await self._client.command("EXISTS", self._keys(id_)[0]))

    async def claim(self, id_: str, tenant: str, lease: Lease) -> Run | None:
        """The run, now held by this lease; None when it is gone, or another's. Raises as ``Envelope.unwrap``."""
        reply = await self._client.script(_CLAIM, self._keys(id_)[:2], tenant, lease.token, self._lease_ms)
        if reply is None or reply == b"BUSY":
            return None
        try:
            return decode_run(id_, paired(reply), self._envelope)
        except StatecarError:
            await self._client.script(_RELEASE, self._keys(id_)[:2], lease.token)  # others may have the key
            raise

    async def hold(self, lease: Lease, *, began: bool = False) -> None:
        """Renews a lease. ``began``: an upstream has taken the run up. Raises RunLost, and RunCancelled when somebody
        wants it to end.
        """
        keys = self._keys(lease.run)[:2]
        _check(await self._client.script(_HOLD, keys, lease.token, self._lease_ms, int(began)))

    async def keep(self, lease: Lease, values: dict[str, Any]) -> None:
        """Keeps values, by names, that its events do not tell. Raises RunLost."""
        fields: list[str | bytes | int] = ["v", self._envelope.schema] if self._envelope.wraps else []
        for name, value in values.items():
            fields += [_KEPT + name, self._wrapped(lease.run, codec.dumps(value))]
        _check(await self._client.script(_KEEP, self._keys(lease.run)[:2], lease.token, *fields))

    async def cancel(self, id_: str, tenant: str) -> bool | None:
        """Asks for a run to end: it can now only become a cancelled response. None: there is no such run.

        True: somebody makes it, and must learn of this; False: nobody does.
        """
        reply = await self._client.script(_CANCEL, self._keys(id_)[:2], tenant)
        return None if reply is None else bool(reply == b"HELD")

    async def announce(self, id_: str) -> None:
        """Tells every process that somebody wants a run to end."""
        await self._client.command("XADD", STOPS, "MAXLEN", "~", 1000, "*", "r", id_)

    async def announced(self, after: str) -> tuple[str, list[str]]:
        """(where to go on, the runs named since), waiting a moment for the first. ``after``: "" for from now on."""
        if not after:
            newest = await self._client.command("XREVRANGE", STOPS, "+", "-", "COUNT", 1)
            return (newest[0][0].decode() if newest else "0-0"), []
        reply = await self._waiting.command("XREAD", "COUNT", _READ, "BLOCK", BLOCK, "STREAMS", STOPS, after)
        entries = reply[0][1] if reply else []
        return (entries[-1][0].decode() if entries else after), [fields[b"r"].decode() for _, fields in entries]

    async def release(self, lease: Lease, tenant: str) -> None:
        """Gives a run back, for any process to go on with."""
        await self._client.script(_RELEASE, self._keys(lease.run)[:2], lease.token)
        await self._client.command("ZADD", RUNS, "XX", self._in(0), _member(lease.run, tenant))

    async def drop(self, lease: Lease, tenant: str) -> None:
        """Takes a run away as if it had never been, with its events; nothing happens to one that another holds."""
        if await self._client.script(_DROP, self._keys(lease.run), lease.token):
            await self.ended(lease.run, tenant)

    async def seen_to(self, runs: Sequence[tuple[str, str]]) -> None:
        """Nobody needs to look after these runs, each (id, tenant), before a lease from now."""
        if runs:
            due = self._in(self.limits.lease)
            pairs = [part for id_, tenant in runs for part in (due, _member(id_, tenant))]
            await self._client.command("ZADD", RUNS, "XX", *pairs)

    async def due(self, count: int) -> list[tuple[str, str]]:
        """Runs, each (id, tenant), that perhaps nobody makes; the longest neglected first."""
        found = await self._client.command("ZRANGEBYSCORE", RUNS, "-inf", self._in(0), "LIMIT", 0, count)
        return [(_run_of(member), member[22:].decode()) for member in found]

    async def of_tenant(self, tenant: str) -> list[str]:
        """The ids of a tenant's runs."""
        members = await self._client.command("ZRANGE", RUNS, 0, -1)
        return [_run_of(member) for member in members if member[22:] == tenant.encode()]

    async def ended(self, id_: str, tenant: str) -> None:
        """Takes a run off the list of all."""
        await self._client.command("ZREM", RUNS, _member(id_, tenant))

    # -- the log

    async def append(self, lease: Lease, first: int, events: Sequence[bytes]) -> None:
        """Adds events to the log; ``first``: the sequence number of the first of them.

        Raises RunLost, with nothing added; with all added RunCancelled, and LogFull for a log that takes no more.
        """
        arguments = lease.token, self.limits.log_bytes, self._ttl, first
        _check(await self._client.script(_APPEND, self._keys(lease.run), *arguments, *self._frames(lease, events)))

    def append_soon(self, lease: Lease, first: int, events: Sequence[bytes], done: Done) -> bool:
        """The same, while nobody waits. ``done`` takes None, or what ``append`` raises: after StoreUnavailable that is
        to be asked, as it is at once where the answer is False.
        """

        def replied(reply: Any) -> None:
            done(None if reply == 1 else StoreUnavailable() if reply is None else _refusal(reply))

        if self._envelope.wraps:
            events = self._frames(lease, events)
        arguments: list[str | bytes | int] = [lease.token, self.limits.log_bytes, self._ttl, first, *events]
        return self._client.post(_APPEND, self._keys(lease.run), arguments, replied)

    async def ready(self) -> None:
        """Sees to it that ``append_soon`` can, where it can at all."""
        await self._client.open_line()

    async def events(self, id_: str, after: int, *, wait: bool = False, most: int = _READ) -> list[bytes]:
        """The events with greater sequence numbers than ``after``, as far as there are any now, at most so many.

        ``wait``: waits a moment for the first of them.
        """
        lineage, minted = _lineage(id_)
        key, last = lineage.events(minted.turn), f"0-{min(after, _LAST) + 1}"
        if wait:
            reply = await self._waiting.command("XREAD", "COUNT", most, "BLOCK", BLOCK, "STREAMS", key, last)
            entries = reply[0][1] if reply else []
        else:
            entries = await self._client.command("XRANGE", key, f"({last}", "+", "COUNT", most)
        frames = [fields[b"e"] for _, fields in entries]
        return self._envelope.unwrapped(frames, lineage.tag, about_events(minted.turn))

    # -- what the verbs share

    def _frames(self, lease: Lease, events: Sequence[bytes]) -> Sequence[bytes]:
        _, minted = _lineage(lease.run)
        return self._envelope.wrapped(events, minted.tag, about_events(minted.turn))

    def _wrapped(self, id_: str, value: bytes) -> bytes:
        lineage, minted = _lineage(id_)
        return self._envelope.wrap(value, lineage.tag, f"run {minted.turn}")

    @property
    def _lease_ms(self) -> int:
        return int(self.limits.lease * 1000)

    @staticmethod
    @functools.lru_cache(maxsize=1024)  # of a run they are needed for each of its tokens
    def _keys(id_: str) -> tuple[str, str, str]:
        lineage, minted = _lineage(id_)
        return lineage.run(minted.turn), lineage.lease(minted.turn), lineage.events(minted.turn)

    @staticmethod
    def _in(seconds: float) -> int:
        return int((time.time() + seconds) * 1000)


def paired(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """Fields and values as a script answers them."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def about_events(turn: str) -> str:
    """What a run's events are sealed as: its own."""
    return f"events {turn}"


def decode_run(id_: str, fields: dict[bytes, bytes], envelope: Envelope) -> Run:
    """The run that is kept in these fields. Raises as ``Envelope.unwrap``."""
    lineage, minted = _lineage(id_)

    def content(value: bytes) -> bytes:
        return envelope.unwrap(value, lineage.tag, f"run {minted.turn}")

    place = (fields[b"l"].decode(), int(fields[b"e"]), fields[b"g"].decode()) if b"l" in fields else None
    return Run(
        id=id_,
        tenant=fields[b"t"].decode(),
        created_at=int(fields[b"c"]),
        request=codec.loads(content(fields[b"q"])),
        given=codec.loads(content(fields[b"i"])),
        headers=content(fields[b"h"]).decode(),
        lock=fields[b"k"].decode(),
        past=Place(*place, int(fields[b"v"])) if place else None,
        claims=int(fields.get(b"n", b"0")),
        began=b"b" in fields,
        cancelled=b"x" in fields,
        keyed=b"y" in fields,
        secrets=content(fields.get(b"s", b"")).decode(),
        quota=Quota(*codec.loads(fields[b"ql"])) if b"ql" in fields else None,
        kept={n[1:].decode(): codec.loads(content(t)) for n, t in fields.items() if n.startswith(_KEPT.encode())},
        owner=owner_of(map(fields.get, map(str.encode, FIELDS)), envelope, lineage.tag),
    )


def _check(reply: Any) -> None:
    """Raises what a script has refused."""
    if refusal := _refusal(reply):
        raise refusal


def _refusal(reply: Any) -> StatecarError | None:
    if reply == b"LOST":
        return RunLost("Another process makes this response.")
    if reply == b"CANCELLED":
        return RunCancelled("The response was cancelled.")
    if reply == b"FULL":
        return LogFull()
    return None


def _lineage(id_: str) -> tuple[Lineage, ids.Minted]:
    minted = ids.of_kind(id_, "resp")
    assert minted, "runs are named by ids of ours"
    return Lineage(minted.tag), minted


def _run_of(member: bytes) -> str:
    return f"resp_{member[:22].hex()}0000"


def _member(id_: str, tenant: str) -> bytes:
    """Tag and turn of a response id in 22 bytes, then the tenant."""
    return bytes.fromhex(id_.removeprefix("resp_")[:44]) + tenant.encode()
