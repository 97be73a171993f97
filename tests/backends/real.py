"""Real backends: which there are, how they are started, and what only they can tell about themselves."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests import servers

HERE = Path(__file__).parent

START = 1800.0
"""Seconds that a backend may take to be ready; generous, because one that is not installed installs itself first."""


@dataclass(frozen=True)
class Kind:
    """A server and how it is started. ``key``: the one it demands; ``tools``, ``thinks``: whether it reads a model's
    tool calls and thoughts out of its text."""

    script: str
    flags: tuple[str, ...] = ()
    key: str = ""
    tools: bool = True
    thinks: bool = True

    @property
    def is_vllm(self) -> bool:
        return self.script == "vllm.sh"


PARSERS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--reasoning-parser", "qwen3")
KEY = "sk-of-the-backend"
KINDS = {
    "llamacpp": Kind("llamacpp.sh"),
    "vllm": Kind("vllm.sh", PARSERS),
    "vllm-plain": Kind("vllm.sh", ("--api-key", KEY), key=KEY, tools=False, thinks=False),
}


class Real:
    """A backend that runs: the one that ``BACKEND_URL_<NAME>`` tells of, else a process of ours. ``url``: its root."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.kind = name, KINDS[name]
        self._process: subprocess.Popen[bytes] | None = None
        given = os.environ.get(f"BACKEND_URL_{name.upper().replace('-', '_')}", "")
        if given:
            self.url = given.rstrip("/").removesuffix("/v1")
        else:
            port = servers.free_port()
            self.url = f"http://127.0.0.1:{port}"
            self._log = folder / f"{name}.log"
            command = [str(HERE / self.kind.script), str(port), *self.kind.flags]
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        headers = {"authorization": f"Bearer {self.kind.key}"} if self.kind.key else {}
        self.http = httpx.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False, verify=False)
        self._wait()

    def stop(self) -> None:
        """Ends the process and all that it started."""
        self.http.close()
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(servers.PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)

    def version(self) -> str:
        """What it says that it is."""
        if self.kind.is_vllm:
            return f"vLLM {self.http.get('/version').json()['version']}"
        return f"llama.cpp {self.http.get('/props').json()['build_info']}"

    def busy(self) -> int:
        """How many requests it works on."""
        if self.kind.is_vllm:
            return int(self._metric("vllm:num_requests_running") + self._metric("vllm:num_requests_waiting"))
        return sum(slot["is_processing"] for slot in self.http.get("/slots").json())

    def written(self) -> int:
        """How many tokens it has written so far."""
        name = "vllm:generation_tokens_total" if self.kind.is_vllm else "llamacpp:tokens_predicted_total"
        return int(self._metric(name))

    def chat(self, text: str, **fields: Any) -> httpx.Response:
        """What it answers without statecar."""
        body = {"model": "tiny", "messages": [{"role": "user", "content": text}], "temperature": 0, **fields}
        return self.http.post("/v1/chat/completions", json=body)

    def _metric(self, name: str) -> float:
        found = re.findall(rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)$", self.http.get("/metrics").text, re.MULTILINE)
        return sum(map(float, found))

    def _wait(self) -> None:
        deadline = time.monotonic() + START
        while not self._is_ready():
            ended = self._process is not None and self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} at {self.url} did not start\n{self._tail()}")
            time.sleep(0.2)

    def _is_ready(self) -> bool:
        try:
            return self.http.get("/health").status_code == 200
        except httpx.TransportError:
            return False

    def _tail(self) -> str:
        return self._log.read_text("utf-8", "replace")[-3000:] if self._process is not None else ""
