"""What is measured, and what it stands between: servers, the backend, the store and the load."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from bench import machine

INSTRUCTIONS = "You are a careful assistant. Answer in short sentences and say so when you do not know something. " * 5
QUESTION = "Summarise the three most important points of the meeting and list the open questions. " * 2
RESPONSES, CHAT = "/v1/responses", "/v1/chat/completions"


@dataclass(frozen=True)
class Work:
    """A kind of request. ``fields``: of a request to statecar beside model, input and instructions."""

    path: str = RESPONSES
    fields: dict[str, Any] = field(default_factory=dict)

    def body(self, model: str, *, stream: bool) -> bytes:
        """The request for a model of the backend's, whose name says how it answers."""
        if self.path == CHAT:
            messages = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": QUESTION}]
            options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
            return json.dumps({"model": model, "messages": messages, **options}).encode()
        body = {"model": model, "instructions": INSTRUCTIONS, "input": QUESTION, **self.fields}
        return json.dumps(body | ({"stream": True} if stream else {})).encode()


@dataclass
class Load:
    """What came of a load: figures of the load generator, and CPU seconds of the server and the store.

    ``reads``: how often the store read from a socket, a round trip each; ``others``: the share of the machine that was
    taken by other programs.
    """

    told: dict[str, Any]
    cpu: float
    store_cpu: float
    reads: int
    others: float

    @property
    def requests(self) -> int:
        return int(self.told["requests"])

    @property
    def tokens(self) -> int:
        return int(self.told["tokens"])


class Bench:
    """The backend, the store and the load generator, for as long as a measurement takes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store_port, self._backend_port = machine.free_port(), machine.free_port()
        self.upstream = f"http://127.0.0.1:{self._backend_port}/v1"
        self.store_url = f"redis://127.0.0.1:{self.store_port}/0"
        self.others: list[float] = []
        self._load = machine.built("load", directory)
        backend = machine.built("backend", directory)
        self._backend = subprocess.Popen(machine.pinned(0, [str(backend), "127.0.0.1", str(self._backend_port)]))
        store = ["redis-server", "--port", str(self.store_port), "--save", "", "--appendonly", "no"]
        self._store = subprocess.Popen(machine.pinned(0, store), stdout=subprocess.DEVNULL, cwd=directory)
        self.store = redis.Redis(port=self.store_port)
        self.alone = System("backend", self._backend_port, self._backend, "/health")

    def close(self) -> None:
        self.store.close()
        for process in (self._backend, self._store):
            process.terminate()
            process.wait()

    def load(
        self,
        system: System,
        work: Work,
        model: str,
        connections: int,
        *,
        requests: int = 0,
        seconds: float = 0,
        stream: bool = False,
        tokens: int = 0,
        ramp: float = 0,
        watch: Callable[[], object] = bool,
    ) -> Load:
        """``connections`` ask again and again until ``requests`` were sent or ``seconds`` are over.

        ``tokens``: wanted of each answer; ``ramp``: seconds over which the connections start. Raises RuntimeError when
        an answer was wrong.
        """
        body = self.directory / "body.json"
        body.write_bytes(work.body(model, stream=stream))
        head = [str(self._load), "127.0.0.1", str(system.port), work.path, str(body), str(connections), str(requests)]
        command = machine.pinned(0, [*head, str(seconds), str(int(stream)), str(tokens), str(int(ramp * 1000))])
        before = system.cpu(), machine.cpu_seconds([self._store.pid]), self._reads()
        ours, (busy, had) = self._all_cpu(system), machine.busy_seconds()
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        while process.poll() is None:
            watch()
            try:
                process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
        assert process.stdout
        told = json.loads(process.stdout.read())
        if told["errors"]:
            raise RuntimeError(f"{system.name}, {model}: {told['errors']} of {told['requests']} wrong: {told['error']}")
        after = system.cpu(), machine.cpu_seconds([self._store.pid]), self._reads()
        worked, (busy_now, had_now) = self._all_cpu(system) - ours + told["load_cpu"], machine.busy_seconds()
        others = max(0.0, (busy_now - busy - worked) / max(0.01, had_now - had))
        self.others.append(others)
        cpu, store_cpu, reads = (now - then for now, then in zip(after, before, strict=True))
        return Load(told, cpu, store_cpu, int(reads) - 1, others)

    def _reads(self) -> int:
        return int(self.store.info("stats")["total_reads_processed"])

    def _all_cpu(self, system: System) -> float:
        others = [self._store.pid, *([] if system is self.alone else [self._backend.pid])]
        return system.cpu() + machine.cpu_seconds(others)


class System:
    """A server under test, on the last core; or the backend alone, on the first. ``ready``: what answers once it is."""

    def __init__(self, name: str, port: int, process: subprocess.Popen[bytes], ready: str = "/ready") -> None:
        self.name, self.port, self._process = name, port, process
        machine.wait_for(f"http://127.0.0.1:{port}{ready}", process)

    def cpu(self) -> float:
        return machine.cpu_seconds(machine.family(self._process.pid))

    def busier(self, work: Callable[[], object]) -> float:
        """The share that the busier of its workers has in the CPU time that this work takes."""
        workers = [pid for pid in machine.family(self._process.pid) if machine.is_worker(pid)]
        before = [machine.cpu_seconds([pid]) for pid in workers]
        work()
        took = [machine.cpu_seconds([pid]) - then for pid, then in zip(workers, before, strict=True)]
        return max(took) / sum(took)

    def memory(self) -> float:
        """Megabytes."""
        return machine.megabytes(machine.family(self._process.pid))

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def relay(bench: Bench) -> Iterator[System]:
    """The bare relay of ``relay.py``."""
    port = machine.free_port()
    options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    command = [sys.executable, "-m", "uvicorn", "bench.relay:app", "--port", str(port), "--backlog", "4096", *options]
    yield from _served(
        "relay", port, machine.pinned(-1, command), {"RELAY_UPSTREAM": bench.upstream}, machine.HERE.parent
    )


@contextmanager
def statecar(bench: Bench, tree: Path = machine.HERE.parent, workers: int | None = None) -> Iterator[System]:
    """statecar as it comes, of the source in ``tree``; the upstream's kind is given, so that plain stays plain.

    ``workers``: so many, on any core.
    """
    port = machine.free_port()
    given = ["--upstream", bench.upstream, "--upstream-kind", "vllm", "--store", bench.store_url, "--port", str(port)]
    command = [sys.executable, "-m", "proxy", "serve", *given, *(["--workers", str(workers)] if workers else [])]
    yield from _served("statecar", port, machine.pinned(-1, command) if workers is None else command, {}, tree)


def _served(name: str, port: int, command: list[str], env: dict[str, str], tree: Path) -> Iterator[System]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("STATECAR_")}
    process = subprocess.Popen(
        command,
        env=clean | {"PYTHONPATH": str(tree)} | env,
        cwd=tree,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    system = None
    try:
        system = System(name, port, process)
        yield system
    finally:
        if system:
            system.stop()
        else:
            process.kill()
            process.wait()
