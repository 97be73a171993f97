"""What is read of the machine: CPU and memory of processes, which core a process runs on, free ports."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
TICK = os.sysconf("SC_CLK_TCK")
CORES = os.cpu_count() or 1


def built(name: str, directory: Path) -> Path:
    """The program made of ``<name>.c``. Needs a C compiler as ``cc``."""
    made = directory / name
    subprocess.run(["cc", "-O2", "-o", str(made), str(HERE / f"{name}.c")], check=True)
    return made


def pinned(core: int, command: list[str]) -> list[str]:
    """A command on one core: servers on the last, load and backend on the first."""
    return ["taskset", "-c", str(core % CORES), *command] if CORES > 1 else command


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def wait_for(url: str, process: subprocess.Popen[bytes], patience: float = 30) -> None:
    """Returns when something answers 200 there. Raises RuntimeError when it does not, or the process has ended."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.05)
    raise RuntimeError(f"nothing at {url} after {patience} s")


def scratch() -> Path:
    return Path(tempfile.mkdtemp(prefix="statecar-bench-"))


def family(pid: int) -> list[int]:
    """The process and all its descendants."""
    parents: dict[int, int] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(_stat(int(entry.name))[1])
            except (OSError, IndexError):
                continue
    found, todo = [], [pid]
    while todo:
        parent = todo.pop()
        if parent in parents:
            found.append(parent)
            todo += [child for child, of in parents.items() if of == parent]
    return found


def is_worker(pid: int) -> bool:
    """Whether a process is one that serves, spawned by another."""
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def cpu_seconds(pids: list[int]) -> float:
    """User and system seconds so far, by the scheduler's own count: finer than clock ticks."""
    total = 0
    for pid in pids:
        try:
            threads = os.listdir(f"/proc/{pid}/task")
            total += sum(int(Path(f"/proc/{pid}/task/{t}/schedstat").read_text().split()[0]) for t in threads)
        except OSError:
            continue
    return total / 1e9


def megabytes(pids: list[int]) -> float:
    """Memory, pages that are shared counted in part."""
    kilobytes = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        kilobytes += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kilobytes / 1024


def busy_seconds() -> tuple[float, float]:
    """(seconds that all cores worked, seconds they had) since the machine began."""
    fields = [int(x) for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICK, sum(fields) / TICK


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
