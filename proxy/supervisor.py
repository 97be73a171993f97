"""The worker processes of a parent: spawned, kept alive, ended with it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.supervisors import Multiprocess

from proxy.app import create_app
from proxy.observe import configure_logging
from proxy.settings import Settings

log = logging.getLogger("statecar")

_HEARD = 0.5
"""Seconds after which a worker has heard one signal: of two at once it would take the lower number first."""


class Workers(Multiprocess):
    """Spawns workers with SIGINT blocked until ``worker_app``: a Ctrl-C while they import would print tracebacks.

    ``delay``: seconds in which a second SIGTERM hurries their end.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket], delay: float) -> None:
        super().__init__(config, sockets)
        self._delay, self._asked = delay, 0

    def init_processes(self) -> None:
        resource_tracker.ensure_running()  # before the block, which its start would lift
        with _ctrl_c_blocked():
            super().init_processes()

    def keep_subprocess_alive(self) -> None:
        if all(one.process.is_alive() for one in self.processes):
            return  # else each is asked by a pipe, and one that dies meanwhile keeps us from signals for the time limit
        with _ctrl_c_blocked():
            super().keep_subprocess_alive()

    def join_all(self) -> None:
        told = time.monotonic()
        while time.monotonic() < told + self._delay and any(one.process.is_alive() for one in self.processes):
            time.sleep(0.1)
            hurried = self._asked + self.signal_queue.count(signal.SIGTERM) > 1
            if hurried and time.monotonic() > told + _HEARD:
                for one in self.processes:
                    if one.process.is_alive() and one.pid:
                        os.kill(one.pid, signal.SIGINT)  # a terminal's Ctrl-C reaches them without us
                break
        super().join_all()

    def handle_signals(self) -> None:  # SIGHUP and SIGTTIN spawn workers too
        self._asked += self.signal_queue.count(signal.SIGTERM)
        with _ctrl_c_blocked():
            super().handle_signals()


@contextlib.contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def served_app(settings: Settings, metrics: Path | None = None) -> Any:
    """The app of a process that does nothing else: what is loaded by now is never looked at for garbage again."""
    app = create_app(settings, metrics)
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    log.info("serving by %s and httptools", loop)
    if loop != "uvloop" and sys.platform != "win32":
        log.warning("uvloop cannot be imported: Python's own event loop serves, which takes more CPU")
    gc.freeze()
    # Requests leave next to nothing to it (a test sees to that), but a context of 1000 turns is 10,000 objects: to look
    # after each 700 took 6 % of a plain request, after each 10,000 another 1.3 ms of one with such a context.
    gc.set_threshold(50_000)
    return app


def worker_app(settings: Settings, metrics: Path) -> Any:
    """The app in a worker process, which ends when its parent does. ``metrics``: where all of them keep theirs."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    configure_logging(settings.log_format, settings.log_level)
    threading.Thread(
        target=_end_with_parent, args=(settings.drain_delay + settings.grace,), name="parent-watcher", daemon=True
    ).start()
    return served_app(settings, metrics)


def _end_with_parent(patience: float) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(patience)
        os._exit(1)
