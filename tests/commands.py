"""Commands of ``statecar`` in the test's own process: starting one of its own takes a second."""

from __future__ import annotations

import asyncio
import io
import sys
from contextlib import redirect_stderr
from types import SimpleNamespace
from typing import Any

import pytest

from proxy import cli
from tests.loggers import loggers_kept


async def command(*argv: str, stdin: bytes = b"", stdout: Any = None) -> tuple[int, bytes, str]:
    """(exit code, stdout, stderr). ``stdout``: where it is to go instead."""
    out, told = io.BytesIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(told), loggers_kept():
        patch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stdin)))
        patch.setattr(sys, "stdout", stdout or SimpleNamespace(buffer=out))
        code = await asyncio.to_thread(_ended, *argv)
    return code, out.getvalue(), told.getvalue()


def _ended(*argv: str) -> int:
    with pytest.raises(SystemExit) as done:
        cli.main(argv)
    assert isinstance(done.value.code, int)
    return done.value.code
