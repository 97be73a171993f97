"""Two servers, four model servers and a store, driven for some time while model servers are killed, slowed, returned.

    python -m tests.fleet.driving [MINUTES] [SEED]

Prints what came of it, and ends with 1 when a promise was broken.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx
from prometheus_client import parser

from tests import servers
from tests.faults.fleet import Fleet
from tests.fleet import diaries
from tests.fleet.replica import MODEL
from tests.fleet.talking import ALIAS, Clients, Counts

CLIENTS = 16
REPLICAS = 4
ROUND = 12.0
"""Seconds in which one of the model servers is killed and returns, and another one is slow for a while."""

TROUBLES = ((0.15, "kill", 0), (0.3, "slow", 1), (0.55, "return", 0), (0.75, "quicken", 1))
"""When in a round what happens, and to which of its two model servers."""


class Replica:
    """One model server, at the same port whenever it lives. ``name``: as the servers' metrics name it."""

    def __init__(self, folder: Path) -> None:
        self._port = servers.free_port()
        self.name = f"127.0.0.1:{self._port}"
        self.diary = folder / f"{self._port}.jsonl"
        self.diary.touch()

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.fleet.replica", str(self._port), str(self.diary)]
        self.process = subprocess.Popen(command)

    def starts(self) -> int:
        """How often it has been ready."""
        return self.diary.read_text().count('"what": "start"')

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def slow(self, is_slow: bool) -> None:
        self.process.send_signal(signal.SIGUSR1 if is_slow else signal.SIGUSR2)


class Drive:
    """One drive of so many ``seconds``. ``share``: of the ideal cache's hits there must be at least; ``broken``: the
    promises that were; ``told``: what the diaries tell.
    """

    def __init__(self, folder: Path, seconds: float, seed: str, share: float = 0.9) -> None:
        self.broken: list[str] = []
        self._folder, self._seconds, self._seed, self._share = folder, seconds, seed, share
        self._chance = random.Random(f"{seed}/troubles")
        self._kills: list[tuple[float, str]] = []
        self._replicas = [Replica(folder) for _ in range(REPLICAS)]

    async def run(self) -> None:
        store = servers.Server.on_port(servers.valkey_binary(), self._folder)
        try:
            for replica in self._replicas:
                replica.start()
            await asyncio.to_thread(servers.until, lambda: all(replica.starts() for replica in self._replicas))
            async with Fleet(self._folder / "fleet", *[self._options(store)] * 2) as fleet:
                await self._drive([member.url for member in fleet.members])
        finally:
            for replica in self._replicas:
                replica.kill()
            store.stop()

    def _options(self, store: servers.Server) -> list[str]:
        group = {
            "name": "chat",
            "models": [f"{MODEL[:2]}*"],
            "aliases": {ALIAS: MODEL},
            "kind": "vllm",
            "replicas": [f"http://{replica.name}/v1" for replica in self._replicas],
        }
        return [
            f"--upstreams={json.dumps([group])}",
            f"--store={store.url}",
            "--upstream-health-interval=0.5",
            "--upstream-eject-seconds=1",
            "--no-access-log",
            "--grace=3",
        ]

    async def _drive(self, urls: list[str]) -> None:
        self.clients = Clients(urls, self._seed)
        ends = time.monotonic() + self._seconds
        troubling = asyncio.create_task(self._trouble(ends))
        try:
            talks = [self.clients.talk(lambda: time.monotonic() > ends) for _ in range(CLIENTS)]
            await asyncio.gather(troubling, *talks)
            await self._judge(urls)
        finally:
            troubling.cancel()
            await self.clients.close()

    async def _trouble(self, ends: float) -> None:
        length = min(ROUND, self._seconds)
        while time.monotonic() + length <= ends + 1:
            began = time.monotonic()
            pair = self._chance.sample(self._replicas, 2)
            for share, what, which in TROUBLES:
                await asyncio.sleep(max(0.0, began + share * length - time.monotonic()))
                await asyncio.to_thread(self._befall, what, pair[which])
            await asyncio.sleep(max(0.0, began + length - time.monotonic()))

    def _befall(self, what: str, replica: Replica) -> None:
        match what:
            case "kill":
                replica.kill()
                self._kills.append((time.monotonic(), replica.name))
            case "return":
                before = replica.starts()
                replica.start()
                servers.until(lambda: replica.starts() > before)
            case _:
                replica.slow(what == "slow")

    # -- the promises

    async def _judge(self, urls: list[str]) -> None:
        clients = self.clients
        self.told = diaries.told({replica.name: replica.diary for replica in self._replicas}, self._kills)
        self.broken += clients.wrong
        self.broken += [
            f"{id_} failed, and was not being answered by a server when that was killed: {why}"
            for id_, why in clients.failed.items()
            if not any(call == id_ or call.startswith(f"{id_}-") for call in self.told.cut)
        ]
        if self.told.share < self._share:
            self.broken.append(f"the caches knew {self.told.share:.1%} of what one for all would have known")
        self.broken += [
            f"{talk} was said to belong to {sorted(sessions)}"
            for talk, sessions in self.told.sessions.items()
            if len(sessions) != 1 or "" in sessions
        ]
        self.metrics = [await self._agreed(url, clients.counts[url]) for url in urls]
        self._upstream_agreed()

    async def _agreed(self, url: str, counts: Counts) -> Counts:
        """The metrics of a server, once they say what its driver counted, or do not in time."""
        until = time.monotonic() + 10
        wanted = +counts
        async with httpx.AsyncClient(trust_env=False, verify=False) as http:
            while True:
                metrics = scraped((await http.get(f"{url}/metrics")).text)
                found = {key: metrics[key] for key in {*wanted, *filter(_is_counted, metrics)} if metrics[key]}
                if found == wanted or time.monotonic() > until:
                    break
                await asyncio.sleep(0.2)
        for key in sorted(found.keys() | wanted.keys()):
            if found.get(key) != wanted.get(key):
                self.broken.append(f"{url} tells {found.get(key)} of {key}, and it was {wanted.get(key)}")
        return metrics

    def _upstream_agreed(self) -> None:
        """What the servers say of their calls, and what the model servers have written down."""
        cut = Counter(self.told.cut.values())
        for replica in self._replicas:
            key = ("statecar_upstream_requests_total", replica.name, "200")
            said, ended = sum(metrics[key] for metrics in self.metrics), self.told.ended[replica.name]
            if not ended <= said <= ended + cut[replica.name]:
                self.broken.append(f"{replica.name} answered {ended} calls, {cut[replica.name]} were cut, not {said}")

    def summary(self) -> str:
        """What came of it, in lines."""
        told, clients = self.told, self.clients
        lines = [
            f"{sum(clients.turns.values())} turns ({', '.join(f'{n} {kind}' for kind, n in clients.turns.items())})"
            f" in {len(told.sessions)} talks, {told.calls} calls, {len(self._kills)} kills",
            f"{len(told.cut)} calls were cut by a kill, {len(clients.failed)} requests failed",
            f"prompt tokens behind the instructions known: {told.known / told.prompt:.1%},"
            f" ideal {told.ideal / told.prompt:.1%}, of ideal {told.share:.1%}",
            *(f"FAILED {id_} {why}" for id_, why in clients.failed.items()),
            *(f"BROKEN {line}" for line in self.broken),
        ]
        return "\n".join(lines)


def scraped(text: str) -> Counts:
    """An exposition as the values of its samples; of models all together."""
    found = Counts()
    for family in parser.text_string_to_metric_families(text):
        for sample in family.samples:
            labels = [value for label, value in sample.labels.items() if label != "model"]
            if sample.labels.get("status") or not labels:
                labels = _in_order(sample.labels)
            found[sample.name, *labels] += sample.value
    return found


def _in_order(labels: dict[str, str]) -> list[str]:
    """The values of labels in the order in which the driver names them."""
    return [labels[name] for name in ("method", "route", "upstream", "status") if name in labels]


def _is_counted(key: tuple[str, ...]) -> bool:
    """Whether the driver counts it all: a value that it does not expect is wrong, too."""
    if key[0] == "statecar_requests_total":
        return key[2] not in ("/ready", "/metrics", "/health")
    return key[0] in ("statecar_turns_total", "statecar_runs_total")


async def main(minutes: float, seed: str) -> int:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        drive = Drive(Path(folder), minutes * 60, seed)
        await drive.run()
    print(drive.summary())
    return 1 if drive.broken else 0


if __name__ == "__main__":
    given = sys.argv[1:]
    sys.exit(asyncio.run(main(float(given[0]) if given else 5.0, given[1] if len(given) > 1 else os.urandom(4).hex())))
