"""``statecar export``, ``import`` and ``purge``: a tenant's data as JSON lines, out of a store, into one, and away."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any, BinaryIO

from proxy.errors import StatecarError
from proxy.observe import configure_logging
from proxy.options import SettingsError, secret_of
from proxy.settings import Parser, Settings
from proxy.state import SHARED, Envelope, Limits, Restore, State, fixed_secret, open_state, tenant_id
from proxy.state.archive import HEADER, VERSION, Line, is_tenant, read, write
from proxy.state.embedded import Embedded
from proxy.values import EMBEDDED, MEMORY

_PATIENCE = 60.0
"""Seconds that a store may take for one operation: nobody waits for it, and a lineage may be large."""

_FIRST = 64 * 1024
"""Bytes of a header at most: what is no archive is not read to its first line end, which may never come."""

_AT_ONCE = 8
"""Lineages that are written at a time."""

_SHOWN = 20
"""Lines with errors that are told of, each."""

_WHAT = {
    "export": "Write what is stored of a tenant to stdout, as JSON lines.",
    "import": "Put an export, read from stdin, into the store. What is there already stays as it is.",
    "purge": "Take everything of a tenant out of the store, and end its background responses.",
}

_TWO_SECRETS = (
    "statecar: the store has a tenant secret of its own, which is not --tenant-secret: servers without that option will"
    " not find what is imported"
)

_OTHER_TENANTS = (
    "the store holds data of other tenants and no tenant secret, so its servers are given theirs, or tell nobody apart:"
    " give the same --tenant-secret here, or say with --tenant-id whose it is to be"
)

_WHOSE = "--tenant NAME | --tenant-key KEY | --tenant-id ID"

_USAGE = {
    "export": f"({_WHOSE}) [options of serve] > FILE",
    "import": f"[{_WHOSE}] [options of serve] < FILE",
    "purge": f"({_WHOSE}) [options of serve] [--yes]",
}


class Refused(RuntimeError):
    """One line: why nothing, or not everything, was done."""


def main(command: str, argv: Sequence[str]) -> int:
    """The command; 0 when all was done. Raises SettingsError and EmbeddedError."""
    parser = Parser(
        f"statecar {command}",
        usage=f"%(prog)s {_USAGE[command]}",
        description=_WHAT[command],
        epilog="Options of serve that say where the store is and how it is read count too, in all three places:"
        " --store, --data-dir, --tenant-secret, --encryption-key, --config and others.",
        allow_abbrev=False,
    )
    parser.add_argument("--tenant", metavar="NAME", help="whose: as a gateway's header, a claim or the key file says")
    parser.add_argument("--tenant-key", metavar="KEY", help="whose: the holder of this key; @FILE reads it")
    parser.add_argument("--tenant-id", metavar="ID", help=f"whose: 32 hex digits, as in the store, or {SHARED}")
    if command == "purge":
        parser.add_argument("--yes", action="store_true", help="do it; without, it is only told how much there is")
    options, rest = parser.parse_known_args(argv)
    settings = Settings.resolve(rest, os.environ, parser.prog, serves=False)
    _check(options, needed=command != "import")
    configure_logging("text", "warning")
    work = {"export": _export, "import": _import, "purge": _purge}[command]
    try:
        with _store(settings) as url:
            return asyncio.run(_with_state(settings, url, options, work))
    except BrokenPipeError:  # whoever read has had enough; Python would complain of it once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (Refused, StatecarError, OSError) as exc:
        print(f"statecar: {exc}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"statecar: {command} was interrupted; give it again", file=sys.stderr)
    return 1


def _check(options: Namespace, *, needed: bool) -> None:
    given = [name for name in ("tenant", "tenant_key", "tenant_id") if getattr(options, name) is not None]
    if len(given) > 1 or (needed and not given):
        raise SettingsError("give one of --tenant NAME, --tenant-key KEY and --tenant-id ID")
    if options.tenant == "":  # a variable that is not set; a purge of nobody would look as if it had been done
        raise SettingsError("--tenant: must not be empty")
    if options.tenant_id is not None and not is_tenant(options.tenant_id):
        raise SettingsError(f"--tenant-id={options.tenant_id!r}: must be 32 hex digits, or {SHARED}")
    if options.tenant_key is not None:
        try:
            options.tenant_key = secret_of(options.tenant_key)
        except ValueError as exc:
            raise SettingsError(f"--tenant-key: {exc}") from None


@contextlib.contextmanager
def _store(settings: Settings) -> Iterator[str]:
    """The URL of the store. That of a data directory is the one that serves there, else it is started for us."""
    if settings.store == MEMORY:
        raise SettingsError(f"--store={MEMORY}: is another process's and cannot be reached: give a URL or {EMBEDDED}")
    if settings.store != EMBEDDED:
        yield settings.store
        return
    embedded = Embedded(settings.data_dir)
    if url := embedded.running():
        yield url
        return
    if not settings.data_dir.is_dir():
        raise Refused(f"the data directory {settings.data_dir} does not exist; give another with --data-dir")
    try:
        yield embedded.start()
    finally:
        embedded.stop()


_Work = Callable[[State, Settings, Namespace], Coroutine[Any, Any, int]]


async def _with_state(settings: Settings, url: str, options: Namespace, work: _Work) -> int:
    try:
        state = open_state(
            url,
            response_ttl=settings.response_ttl,
            conversation_ttl=settings.conversation_ttl,
            connections=settings.store_connections,
            limits=Limits(lease=settings.run_lease),
            envelope=Envelope(settings.encryption_key, settings.compression),
            patience=_PATIENCE,
        )
    except ValueError as exc:
        raise SettingsError(f"--store: {exc}") from None
    try:
        return await work(state, settings, options)
    finally:
        await state.close()


async def _secret(state: State, settings: Settings) -> bytes | None:
    return fixed_secret(settings.tenant_secret) if settings.tenant_secret else await state.known_secret()


def _tenant(options: Namespace, secret: bytes | None) -> str:
    """Whose, as the store says it. Raises Refused."""
    if options.tenant_id is not None:
        named: str = options.tenant_id
        return named
    if secret is None:
        raise Refused("the store holds no tenant secret, so nothing of any tenant: is it the right one?")
    name = f"Bearer {options.tenant_key}" if options.tenant is None else options.tenant
    return tenant_id(secret, name)


def _fingerprint(secret: bytes | None) -> str:
    """What a secret is known by, and cannot be found from."""
    return hashlib.blake2b(secret or b"", digest_size=16, person=b"statecar secret").hexdigest()


async def _export(state: State, settings: Settings, options: Namespace) -> int:
    secret, out = await _secret(state, settings), sys.stdout.buffer
    tenant = _tenant(options, secret)
    header: Line = {"type": HEADER, "version": VERSION, "tenant": tenant, "exported_at": int(time.time())}
    header["fingerprint"] = _fingerprint(secret)
    if secret and not settings.tenant_secret:
        header["secret"] = secret.hex()
    export = state.export(tenant)
    out.write(write(header))
    async for line in export.lines():
        out.write(write(line))
    out.flush()
    count = export.count
    print(_told("exported", count.lineages, count.responses, count.conversations, count.keys), file=sys.stderr)
    if count.unfinished:
        print(f"left out: {count.unfinished} responses that are being made; export again later", file=sys.stderr)
    if count.damaged:
        print(f"left out: {count.damaged} responses of which not everything is there; the log tells", file=sys.stderr)
    return 1 if count.damaged else 0


def _told(done: str, lineages: int, responses: int, conversations: int, keys: int) -> str:
    return (
        f"{done}: {lineages} lineages with {responses} responses and {conversations} conversations,"
        f" {keys} idempotency keys"
    )


async def _import(state: State, settings: Settings, options: Namespace) -> int:
    source = sys.stdin.buffer
    header = await _header(source)
    intake = _Intake(await _restore(state, settings, options, header))
    await _side_by_side(intake.take, _lines(source))
    count, became = intake.restore.count, intake.became
    print(_told("imported", count.lineages, count.responses, count.conversations, count.keys), file=sys.stderr)
    if became["there"] or became["expired"]:
        print(f"left as they are: {became['there']} lines; expired: {became['expired']}", file=sys.stderr)
    if not intake.ended:
        raise Refused("the file ends before its last line: it was cut off. What stands in it is in the store")
    if wrong := became["wrong"] + became["foreign"]:
        raise Refused(f"{wrong} lines were not imported; all others are in the store")
    return 0


class _Intake:
    """Puts lines into the store. ``became``: what of how many; ``ended``: the last line has come."""

    def __init__(self, restore: Restore) -> None:
        self.restore, self.ended = restore, False
        self.became = Counter[str]()

    async def take(self, number: int, data: bytes) -> None:
        """A line; of one that is wrong it is told, and the others go on."""
        try:
            line = self._read(data)
            if line is None:
                return
            outcome = await self.restore.put(line)
        except ValueError as exc:
            self._refuse("wrong", number, str(exc))
            return
        if outcome == "foreign":
            self._refuse(outcome, number, f"lineage {line['tag']} is another tenant's in this store")
        else:
            self.became[outcome] += 1

    def _read(self, data: bytes) -> Line | None:
        """A line that is to be stored. Raises ValueError."""
        if self.ended:
            raise ValueError("stands behind the last line")
        line = read(data)
        if line["type"] == HEADER:
            raise ValueError("is another header: give one export at a time")
        self.ended = line["type"] == "end"
        return None if self.ended else line

    def _refuse(self, outcome: str, number: int, why: str) -> None:
        self.became[outcome] += 1
        if self.became[outcome] <= _SHOWN:
            print(f"statecar: line {number}: {why}", file=sys.stderr)


async def _header(source: BinaryIO) -> Line:
    """The first line. Raises Refused."""
    data = await asyncio.to_thread(source.readline, _FIRST)
    try:
        line = read(data)
        if line["type"] != HEADER:
            raise ValueError(f"type: must be {HEADER}")
    except ValueError as exc:
        raise Refused(f"line 1: {exc}; this is no export of statecar") from None
    return line


async def _restore(state: State, settings: Settings, options: Namespace, header: Line) -> Restore:
    """What writes the lines, as whose they become. Raises Refused where that cannot be known."""
    known = await state.known_secret()
    secret = fixed_secret(settings.tenant_secret) if settings.tenant_secret else known
    brought = bytes.fromhex(header["secret"]) if "secret" in header and secret is None else None
    tenant = _owner(options, header, secret or brought)
    hashed = options.tenant_id is None and tenant != SHARED
    if hashed and known and secret != known:
        print(_TWO_SECRETS, file=sys.stderr)
    restore = await state.restore(tenant)
    if brought:
        if hashed and restore.has_others:
            raise Refused(_OTHER_TENANTS)
        await state.install_secret(brought)
        if await state.known_secret() != brought:
            raise Refused("a server has begun to use the store meanwhile: give it again")
    return restore


def _owner(options: Namespace, header: Line, secret: bytes | None) -> str:
    if options.tenant is not None or options.tenant_key is not None or options.tenant_id is not None:
        return _tenant(options, secret)
    tenant: str = header["tenant"]
    if tenant != SHARED and _fingerprint(secret) != header["fingerprint"]:
        raise Refused(
            "the tenants of this store are hashed with another secret than those of the export: say whose it is to be"
            " here, with --tenant, --tenant-key or --tenant-id"
        )
    return tenant


async def _lines(source: BinaryIO) -> AsyncIterator[tuple[int, bytes]]:
    number = 1
    while data := await asyncio.to_thread(source.readline):
        number += 1
        if data.strip():
            yield number, data


async def _side_by_side(
    work: Callable[[int, bytes], Coroutine[Any, Any, None]], lines: AsyncIterator[tuple[int, bytes]]
) -> None:
    """Does the work for all lines, for a few at a time."""
    free = asyncio.Semaphore(_AT_ONCE)

    async def bounded(number: int, data: bytes) -> None:
        try:
            await work(number, data)
        finally:
            free.release()

    try:
        async with asyncio.TaskGroup() as group:
            async for line in lines:
                await free.acquire()
                group.create_task(bounded(*line))
    except BaseExceptionGroup as errors:  # those of the others say the same
        raise errors.exceptions[0] from None


async def _purge(state: State, settings: Settings, options: Namespace) -> int:
    tenant = _tenant(options, await _secret(state, settings))
    if not options.yes:
        count = await state.purge(tenant).count()
        raise Refused(f"this would take away {count} lineages of tenant {tenant}: give --yes")
    purged = await state.purge(tenant).run()
    print(f"purged: {purged.keys} keys, {purged.runs} responses in the making ended", file=sys.stderr)
    if not purged.done:
        raise Refused("the tenant goes on storing: take its key away, and purge again")
    return 0
