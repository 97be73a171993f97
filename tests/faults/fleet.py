"""Several ``statecar serve`` over one store that are killed, ended and started again, each time at another port."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Sequence
from pathlib import Path

from tests.live.conftest import Process


class Member:
    """One place in the fleet. ``url``: of the process that has it now, "" while none is ready."""

    def __init__(self, folder: Path, options: Sequence[str]) -> None:
        self.url = ""
        self._folder, self._options, self._count = folder, options, 0

    async def start(self) -> None:
        folder = self._folder / str(self._count)
        folder.mkdir(parents=True)
        self._count += 1
        self.process = Process(folder, f"--data-dir={folder}", *self._options)
        self.url = await asyncio.to_thread(self.process.url)

    async def kill(self) -> None:
        """kill -9: nobody has a last word. Workers notice, and go too."""
        self.url = ""
        self.process.process.kill()
        await asyncio.to_thread(self.process.process.wait)

    async def end(self) -> None:
        """SIGTERM; it must end well. Until it has ended it may still be asked."""
        self.process.ask_to_end()
        code = await asyncio.to_thread(self.process.ended)
        self.url = ""
        assert code == 0, self.process.stderr[-4000:]

    def resume(self) -> None:
        self.process.process.send_signal(signal.SIGCONT)


class Fleet:
    """``options``: of each member."""

    def __init__(self, folder: Path, *options: Sequence[str]) -> None:
        self.members = [Member(folder / str(at), each) for at, each in enumerate(options)]

    async def __aenter__(self) -> Fleet:
        try:
            await asyncio.gather(*(member.start() for member in self.members))
        except BaseException:
            for member in self.members:
                member.process.process.kill()
            raise
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        for member in self.members:
            if kind:
                member.process.process.kill()
            else:
                member.process.ask_to_end()
        codes = [await asyncio.to_thread(member.process.ended) for member in self.members]
        assert kind or set(codes) <= {0, -signal.SIGKILL}, [member.process.stderr[-4000:] for member in self.members]

    def any_url(self, chance: random.Random) -> str:
        """Of a process that is ready, or was a moment ago."""
        ready = [member.url for member in self.members if member.url]
        return chance.choice(ready) if ready else "http://127.0.0.1:9"
