"""The soak: several processes over one store, clients that do anything, and troubles of every kind for some minutes.

    python -m tests.faults.soak [MINUTES] [SEED]

Every promise is checked against a naive model (``model.py``). Ends with a summary, and with 1 when one was broken. The
seed repeats what clients and troubles choose; when each comes to it is up to the machine.
"""

from __future__ import annotations

import asyncio
import random
import re
import secrets
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

import redis

from tests import servers
from tests.faults.client import Client
from tests.faults.fleet import Fleet
from tests.faults.model import Violation
from tests.faults.teller import Teller
from tests.faults.trouble import Trouble

CLIENTS = 12

PERIOD = 1.6
"""Seconds from one thing that a client does to the next, on average: more than it takes, for an even load."""

GROWTH = 1.1
"""How much more memory and keys there may be at the end than at three tenths of the time."""

LIFETIME = 60
"""Seconds that things live: short, so that their number levels off, and longer than anything waits for a lock that a
killed process has left.
"""

LONG = 5
"""Minutes from which growth is judged: before that, what a process loads once counts too much."""


@dataclass
class Samples:
    """Of one thing over time, each (share of the time, value)."""

    values: list[tuple[float, float]] = field(default_factory=list)

    def near(self, share: float) -> float:
        """The mean around a moment."""
        return mean([value for at, value in self.values if abs(at - share) <= 0.1] or [0])


class Soak:
    """One run. ``broken``: the promises that were."""

    def __init__(self, minutes: float, seed: str) -> None:
        self.minutes, self.seed = minutes, seed
        self.broken: list[Violation] = []
        self.clients: list[Client] = []
        self.memory: dict[str, Samples] = {}
        self.keys = Samples()

    async def run(self) -> bool:
        """Whether every promise was kept."""
        memory = Path("/dev/shm")
        with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory:
            folder = Path(directory)
            durable = ("--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-min-size", "16mb")
            store = servers.Server.on_port(servers.valkey_binary(), folder, *durable)
            try:
                async with Teller() as teller:
                    fleet = Fleet(folder / "fleet", *self._options(teller, store))
                    async with fleet:
                        await self._all(fleet, store, teller)
            finally:
                store.resume()
                store.stop()
        return self._told()

    def _options(self, teller: Teller, store: servers.Server) -> list[list[str]]:
        one = [
            f"--upstream={teller.url}",
            "--upstream-kind=vllm",
            "--upstream-api-key=k",
            "--upstream-first-byte-timeout=5",
            "--upstream-idle-timeout=3",
            f"--store={store.url}",
            f"--response-ttl={LIFETIME}",
            f"--conversation-ttl={LIFETIME}",
            f"--event-log-ttl={LIFETIME}",
            "--run-lease=2",
            "--grace=3",
            "--no-access-log",
        ]
        return [one, [*one, "--workers=2"], one]

    async def _all(self, fleet: Fleet, store: servers.Server, teller: Teller) -> None:
        gap = 2.0 if self.minutes < LONG else 4.0
        self.trouble = Trouble(fleet, store, teller, random.Random(f"{self.seed}/trouble"), gap)
        site = _Site(fleet, self.trouble)
        self.began = time.monotonic()
        young = LIFETIME / 3
        self.clients = [Client(site, self.seed, at, young, lambda: self.clients) for at in range(CLIENTS)]
        troubling = asyncio.create_task(self.trouble.go_on())
        sampling = asyncio.create_task(self._sample(fleet, store))
        try:
            await asyncio.gather(*map(self._live, self.clients))
        finally:
            troubling.cancel()
            sampling.cancel()
            ended = await asyncio.gather(troubling, sampling, return_exceptions=True)
            await asyncio.gather(*(client.close() for client in self.clients))
        for exc in ended:
            if not isinstance(exc, asyncio.CancelledError):
                self._note(exc if isinstance(exc, Exception) else RuntimeError(repr(exc)))
        await self._recover(fleet, store)
        await asyncio.to_thread(self._look_at_rest, store)

    async def _live(self, client: Client) -> None:
        due = self.began
        while time.monotonic() - self.began < self.minutes * 60 and len(self.broken) < 10:
            due += client.chance.uniform(0, 2 * PERIOD)  # what a trouble has delayed is made up for
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            try:
                await client.act()
            except Exception as exc:
                self._note(exc)
                client.forget()

    def _note(self, exc: BaseException) -> None:
        if not isinstance(exc, Violation):
            exc = Violation("wrong", repr(exc), traceback.format_exception(exc))
        self.broken.append(exc)
        print(f"{exc.kind.upper()}\n  " + "\n  ".join(exc.story), file=sys.stderr, flush=True)

    # -- what is left

    async def _recover(self, fleet: Fleet, store: servers.Server) -> None:
        """A trouble may have been cut short."""
        store.resume()
        if store.process.poll() is not None:
            await asyncio.to_thread(store.start)
        for member in fleet.members:
            if not member.url:  # killed, or about to start
                await member.kill()
                await member.start()

    def _look_at_rest(self, store: servers.Server) -> None:
        """Nothing is stuck, nothing locked, nothing without an end."""
        with store.admin() as admin:
            try:
                servers.until(lambda: not admin.zcard("sc:runs"))
            except TimeoutError:
                self._note(Violation("stuck", "runs", [f"runs that nobody ends: {admin.zrange('sc:runs', 0, -1)}"]))
            for key in admin.scan_iter(count=1000):
                left = admin.pttl(key)
                if re.search(rb":[jw]:\w+\Z", key) and left != -2:
                    self._note(Violation("stuck", "a run", [f"{key!r} is left, with no run on the list"]))
                if left == -1 and key not in (b"sc:secret", b"sc:stops", b"sc:runs"):
                    self._note(Violation("stuck", "a key", [f"{key!r} is kept for ever"]))
                lists_lineages = key.startswith(b"sc:{t:") and key.endswith(b":l")  # for twice what their logs live
                if 80_000_000 > left > max(60_000, 1300 * LIFETIME + 5000) * (1 + lists_lineages):
                    self._note(Violation("stuck", "a key", [f"{key!r} is kept for {left} ms"]))
                if key.endswith(b":k") and left > 15000:
                    self._note(Violation("stuck", "a lock", [f"{key!r} is locked for {left} ms"]))

    # -- how much there is

    async def _sample(self, fleet: Fleet, store: servers.Server) -> None:
        whole = self.minutes * 60
        while True:
            await asyncio.sleep(min(2.0, whole / 60))
            share = (time.monotonic() - self.began) / whole
            self._add("statecar", share, fleet.members[0].process.process.pid)
            try:
                self.keys.values.append((share, await asyncio.to_thread(self._count_keys, store)))
            except redis.RedisError:
                continue  # one of its troubles

    def _count_keys(self, store: servers.Server) -> int:
        """How many keys there are; what is kept for a day, idempotency's, is let expire as soon as all else here."""
        with redis.Redis.from_url(store.url, socket_timeout=0.5) as admin:
            for key in admin.scan_iter(count=1000):
                if 80_000 < admin.ttl(key) < 86_400 - LIFETIME:
                    admin.delete(key)
            return int(admin.dbsize())

    def _add(self, name: str, share: float, pid: int) -> None:
        resident = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        if resident:
            self.memory.setdefault(name, Samples()).values.append((share, int(resident[1]) / 1024))

    # -- the summary

    def _told(self) -> bool:
        counts = {name: sum((getattr(client, name) for client in self.clients), Counter()) for name in ("done",)}
        ends = sum((client.turns.ends for client in self.clients), Counter())
        refused = sum((client.turns.refused for client in self.clients), Counter())
        print(f"\nsoak of {self.minutes:g} minutes, seed {self.seed}, things live {LIFETIME} s")
        _table("did", counts["done"])
        _table("turns", ends)
        _table("troubles", self.trouble.counts)
        _table("refused in peace", refused)
        print(f"\n{sum(client.checks for client in self.clients)} looks, ", end="")
        print(f"{sum(client.turns.pieces for client in self.clients)} connections for streams, ", end="")
        print(f"{sum(client.turns.repeated for client in self.clients)} turns told of twice")
        kinds = Counter(one.kind for one in self.broken)
        print(", ".join(f"{kinds[kind]} {kind}" for kind in ("lost", "doubled", "stuck", "wrong")))
        kept = not self.broken
        for name, samples in ("keys", self.keys), *((f"MB of {name}", each) for name, each in self.memory.items()):
            early, late = samples.near(0.3), samples.near(0.9)
            print(f"{name}: {early:.0f} at 30 % of the time, {late:.0f} at the end")
            if self.minutes >= LONG and late > GROWTH * early:
                print(f"  more than {GROWTH} times as much")
                kept = False
        return kept


class _Site:
    """The fleet and its troubles, as clients know them."""

    def __init__(self, fleet: Fleet, trouble: Trouble) -> None:
        self.any_url, self.felt_since, self.calm = fleet.any_url, trouble.felt_since, trouble.calm


def _table(title: str, counts: Counter[str]) -> None:
    print(f"\n{title}")
    for name, count in sorted(counts.items()):
        print(f"  {name:<40}{count:>7}")


def main() -> None:
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    seed = (sys.argv[2:] or [secrets.token_hex(4)])[0]
    print(f"seed {seed}", flush=True)
    sys.exit(0 if asyncio.run(_until_told(Soak(minutes, seed))) else 1)


async def _until_told(soak: Soak) -> bool:
    """Runs it; SIGTERM ends it with all that it has started."""
    running = asyncio.create_task(soak.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    return await running


if __name__ == "__main__":
    main()
