"""The life of ``statecar serve`` as real processes: readiness, signals, exit codes, what ends with what."""

import contextlib
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import pytest
import redis

pytestmark = [pytest.mark.live, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

PATIENCE = 60
"""Seconds until something that must happen is held not to."""


def until(event, what):
    deadline = time.monotonic() + PATIENCE
    while not (value := event()):
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)
    return value


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Statecar:
    """One ``statecar`` process on a free port; ``stderr`` is what it has said so far."""

    def __init__(self, folder, *argv):
        self.folder = folder
        with (folder / "stderr").open("w") as stderr:
            # Its own session: a terminal's Ctrl-C reaches every process of the group, as here.
            self.process = subprocess.Popen(
                [sys.executable, "-m", "proxy", *argv], stderr=stderr, start_new_session=True, env=self.environment()
            )
        self.pid = self.process.pid

    def environment(self):
        own = {name: value for name, value in os.environ.items() if not name.startswith("STATECAR_")}
        return own | {"STATECAR_DATA_DIR": str(self.folder / "data")}

    @property
    def stderr(self):
        return (self.folder / "stderr").read_text()

    @property
    def url(self):
        def told():
            return re.search(r"on (http://127\.0\.0\.1:\d+)", self.stderr) or self.process.poll() is not None

        found = until(told, lambda: self.stderr)
        assert found is not True, self.stderr
        return found[1]

    def get(self, path):
        try:
            return httpx.get(self.url + path, timeout=PATIENCE)
        except httpx.TransportError:
            return None

    def ready(self):
        until(lambda: (answer := self.get("/ready")) and answer.status_code == 200, lambda: self.stderr)
        return self

    def workers(self):
        """The process ids of the spawned workers that live."""
        found = []
        for child in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            command = Path(f"/proc/{child}/cmdline").read_text() if alive(child) else ""
            if "spawn_main" in command and "resource_tracker" not in command:
                found.append(int(child))
        return found

    def valkey(self):
        path = (self.folder / "data" / "socket").read_text().strip()
        with redis.Redis(unix_socket_path=path) as client:
            return client.info("server")["process_id"]

    def ended(self):
        code = self.process.wait(PATIENCE)
        assert "Traceback" not in self.stderr, self.stderr
        return code


@pytest.fixture
def statecar(tmp_path, monkeypatch):
    """Starts ``statecar`` with the given arguments; gives it back when it has said something or ended."""
    started = []
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        monkeypatch.setenv("TMPDIR", directory)

        def start(*argv):
            folder = tmp_path / str(len(started))
            folder.mkdir()
            started.append(Statecar(folder, *argv))
            return started[-1]

        yield start
        for one in started:
            if one.process.poll() is None:
                os.killpg(one.pid, signal.SIGKILL)
            one.process.wait()
        until(lambda: not any(alive(pid) for pid in valkeys(directory)), lambda: "Valkey outlived its parent")


def valkeys(directory):
    """The process ids of the Valkeys whose socket lies below the directory."""
    found = []
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if directory in cmdline.read_text() and "valkey-server" in cmdline.read_text():
                found.append(int(cmdline.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


SERVE = ("serve", "--upstream", "demo", "--port", "0")


def test_ctrl_c_ends_everything_with_code_0(statecar):
    server = statecar(*SERVE, "--web-search", "searxng+http://user:secret@127.0.0.1:9/?language=de").ready()
    valkey = server.valkey()
    assert server.get("/health").status_code == 200
    os.killpg(server.pid, signal.SIGINT)
    assert server.ended() == 0
    assert not alive(valkey)
    assert os.listdir(os.environ["TMPDIR"]) == []
    said = server.stderr.splitlines()
    assert re.search(r"INFO statecar \d\S+ on http://127\.0\.0\.1:\d+$", said[0])
    assert said[1].endswith(f"INFO upstream demo, store embedded in {server.folder}/data")
    assert said[2].endswith("INFO hosted tools: web_search searxng+http://user:***@127.0.0.1:9/")


def test_a_second_ctrl_c_still_stops_valkey_and_exits_with_0(statecar):
    server = statecar(*SERVE, "--workers", "1").ready()
    with httpx.stream("GET", server.url + "/health"):  # an open connection, so that there is something to wait for
        valkey = server.valkey()
        os.killpg(server.pid, signal.SIGINT)
        os.killpg(server.pid, signal.SIGINT)
        os.killpg(server.pid, signal.SIGTERM)
        assert server.ended() == 0
    assert not alive(valkey)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_readiness_is_gone_before_connections_are_refused_and_a_second_signal_skips_the_delay(statecar, workers):
    server = statecar(*SERVE, "--store", "memory://", "--workers", workers, "--drain-delay", "600").ready()
    with httpx.Client(timeout=PATIENCE) as kept:
        assert "connection" not in kept.get(server.url + "/ready").headers
        os.killpg(server.pid, signal.SIGTERM)  # as a service manager does: workers hear of it twice
        told = until(lambda: (answer := server.get("/ready")) and answer.status_code == 503 and answer, lambda: "ready")
        assert told.json()["server"] == "stopping"
        time.sleep(int(workers) - 1)  # until the parent has told its workers too
        turn = {"model": "demo", "input": "Hi"}
        for stream in (False, True):
            answer = httpx.post(f"{server.url}/v1/responses", json=turn | {"stream": stream}, timeout=PATIENCE)
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
            assert "completed" in answer.text
        assert kept.get(server.url + "/v1/models").headers["connection"] == "close"
    os.kill(server.pid, signal.SIGTERM)
    assert server.ended() == 0
    assert server.get("/ready") is None


def test_a_signal_while_starting_ends_with_0_and_leaves_nothing(statecar):
    server = statecar(*SERVE)
    until(lambda: (server.folder / "data" / "lock").exists(), lambda: server.stderr)
    os.kill(server.pid, signal.SIGTERM)
    assert server.ended() == 0
    assert os.listdir(os.environ["TMPDIR"]) == []


def test_a_killed_worker_comes_back_and_ctrl_c_ends_all_of_them_before_valkey(statecar):
    server = statecar(*SERVE, "--workers", "2").ready()
    valkey = server.valkey()
    first, second = until(lambda: len(found := server.workers()) == 2 and found, lambda: server.stderr)
    os.kill(first, signal.SIGKILL)
    until(lambda: first not in (now := server.workers()) and len(now) == 2, lambda: server.stderr)
    assert second in (workers := server.workers())
    assert re.search(r"Child process \[\d+\] died", server.stderr)
    assert server.get("/health").status_code == 200
    os.killpg(server.pid, signal.SIGINT)  # the new worker is still importing: that must print no traceback
    while server.process.poll() is None:
        valkey_ended = not alive(valkey)
        assert not (valkey_ended and any(alive(worker) for worker in workers))
        time.sleep(0.005)
    assert server.ended() == 0
    assert not alive(valkey)
    assert not any(alive(worker) for worker in workers)


def test_all_workers_serve_also_where_uvloop_cannot_be_imported(statecar, tmp_path, monkeypatch):
    (tmp_path / "uvloop.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]))
    server = statecar(*SERVE, "--store", "memory://", "--workers", "2").ready()
    until(lambda: server.stderr.count("serving by asyncio and httptools") == 2, lambda: server.stderr)
    assert server.stderr.count("uvloop cannot be imported") == 2
    before = [sockets(pid) for pid in server.workers()]
    with contextlib.ExitStack() as stack:
        for _ in range(64):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", httpx.URL(server.url).port)))
            client.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
        took = [sockets(pid) - n for pid, n in zip(server.workers(), before, strict=True)]
    assert min(took) >= 5, took


def sockets(pid):
    """How many a process has open."""
    return sum(os.readlink(fd).startswith("socket:") for fd in Path(f"/proc/{pid}/fd").iterdir())


def test_a_killed_parent_takes_workers_and_valkey_with_it(statecar):
    server = statecar(*SERVE, "--workers", "2", "--grace", "1").ready()
    workers = until(lambda: len(found := server.workers()) == 2 and found, lambda: server.stderr)
    valkey = server.valkey()
    os.kill(server.pid, signal.SIGKILL)
    server.process.wait()
    until(lambda: not any(alive(pid) for pid in (*workers, valkey)), lambda: "they outlived their parent")


def test_a_port_in_use_is_one_line_and_exit_code_1(statecar):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        server = statecar("serve", "--upstream", "demo", "--port", port)
        assert server.ended() == 1
        assert server.stderr == f"statecar: cannot listen on host 127.0.0.1, port {port}: Address already in use\n"
    assert not (server.folder / "data").exists()


def test_a_data_directory_that_cannot_be_used_is_one_line_and_exit_code_1(statecar):
    server = statecar(*SERVE, "--data-dir", "/dev/null/data")
    assert server.ended() == 1
    assert server.stderr.startswith("statecar: the data directory /dev/null/data cannot be used: ")
    assert server.stderr.count("\n") == 1


def test_an_upgrade_is_not_complained_about(statecar):
    server = statecar(*SERVE, "--store", "memory://", "--no-access-log").ready()
    upgrade = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13", "sec-websocket-key": "x"}
    assert httpx.get(server.url + "/health", headers=upgrade, timeout=PATIENCE).status_code < 500
    os.kill(server.pid, signal.SIGTERM)
    assert server.ended() == 0
    assert len(server.stderr.splitlines()) == 3
    assert "store memory:// (nothing is kept)" in server.stderr


def test_the_demo_backend_serves_alone(statecar):
    server = statecar("demo", "--port", "0")
    assert [model["id"] for model in server.get("/v1/models").json()["data"]] == ["demo", "demo-slow"]
    os.killpg(server.pid, signal.SIGINT)
    assert server.ended() == 0


def test_no_room_for_the_metrics_of_several_workers_is_said_in_one_line(statecar):
    free = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, free[1]))  # as if the disk were full
    try:
        server = statecar(*SERVE, "--store=redis://127.0.0.1:9", "--workers=2")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, free)
    assert server.ended() == 1
    told = f"statecar: {os.environ['TMPDIR']} has no room for the metrics of 2 workers, a few MB each: File too large"
    assert server.stderr.splitlines()[-1] == told
    assert os.listdir(os.environ["TMPDIR"]) == []
