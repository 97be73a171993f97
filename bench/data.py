"""What an export, an import and a purge of one tenant take, in time and memory, and what they leave.

    python -m bench.data [LINEAGES]

Fills a private Valkey with lineages of one turn each, of one tenant, and of another one a tenth as many.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests import servers
from tests.state.talk import Talk, opened

SECRET = b"x" * 32
WHOSE, OTHER = "ab" * 16, "cd" * 16
MEMORY = 100.0
"""MB that no command may exceed, however much there is."""


async def fill(url: str, tenant: str, lineages: int) -> None:
    """Saves so many responses, each a lineage."""
    async with opened(url) as state:
        talk = Talk(state, tenant)

        async def some() -> None:
            for _ in range(lineages // 20):
                await talk.turn()

        await asyncio.gather(*(some() for _ in range(20)))


def measured(name: str, *argv: str, read: Path | None = None, write: Path | None = None) -> float:
    """Runs a command, and tells what it took; its memory in MB."""
    began = time.monotonic()
    with open(read or os.devnull, "rb") as source, open(write or os.devnull, "wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "proxy", name, *argv], stdin=source, stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, f"{name} failed"
    seconds, memory = time.monotonic() - began, usage.ru_maxrss / 1024
    print(f"{name:8} {seconds:6.1f} s, CPU {usage.ru_utime + usage.ru_stime:5.1f} s, {memory:4.0f} MB", flush=True)
    return memory


def main(lineages: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        server = servers.Server.on_socket(servers.valkey_binary(), Path(folder))
        try:
            return _taken(server, Path(folder), lineages)
        finally:
            server.stop()


def _taken(server: servers.Server, folder: Path, lineages: int) -> int:
    store, whose = f"--store={server.url}", f"--tenant-id={WHOSE}"
    asyncio.run(fill(server.url, OTHER, lineages // 10))
    with server.admin() as admin:
        admin.set("sc:secret", SECRET)
        before = admin.dbsize()
        asyncio.run(fill(server.url, WHOSE, lineages))
        first, second = folder / "first.jsonl", folder / "second.jsonl"
        memory = [measured("export", whose, store, write=first)]
        print(f"{first.stat().st_size / 1e6:.0f} MB of lines, {admin.dbsize()} keys")
        memory.append(measured("purge", whose, store, "--yes"))
        assert admin.dbsize() == before, "something is left"
        memory.append(measured("import", store, read=first))
        memory.append(measured("import", store, read=first))  # changes nothing
        memory.append(measured("export", whose, store, write=second))
    assert first.read_bytes().splitlines()[1:] == second.read_bytes().splitlines()[1:], "not what it was"
    return 0 if max(memory) < MEMORY else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000))
