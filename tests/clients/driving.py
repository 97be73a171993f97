"""Runs one driver in a process group of its own and reads what it says."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DRIVERS = Path(__file__).parent / "drivers"
LIMIT = 240
"""Seconds that a driver gets for all of its features."""


def drive(command: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """The results, one a feature. Raises RuntimeError with what it complained of when it did not come to its end.

    It sees no settings but these and has an empty home; nothing that it starts outlives it.
    """
    with tempfile.TemporaryDirectory(dir=cwd) as home, tempfile.TemporaryFile("w+") as stderr:
        own = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": home, **environment}
        with subprocess.Popen(
            command, cwd=cwd, env=own, text=True, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True
        ) as process:
            try:
                said, _ = process.communicate(timeout=LIMIT)
            except subprocess.TimeoutExpired:
                raise RuntimeError(f"no end after {LIMIT} s") from None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        if process.returncode:
            stderr.seek(0)
            raise RuntimeError(f"exit code {process.returncode}: {stderr.read()[-2000:]}")
    return [json.loads(line) for line in said.splitlines() if line.startswith('{"client"')]
