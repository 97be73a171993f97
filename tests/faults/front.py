"""A balancer in front of the fleet: each connection goes to a process whose ``/ready`` does not say that it ends."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter

import httpx

from tests.faults.fleet import Fleet

LOOK = 0.05
"""Seconds between looks."""


class Front:
    """``url``: where clients connect to; ``refused``: connections that could not be handed on."""

    def __init__(self, fleet: Fleet) -> None:
        self.refused = 0
        self._fleet = fleet
        self._ready: list[str] = []
        self._one_look = asyncio.Lock()
        self._turn = itertools.count()
        self._unanswered: Counter[str] = Counter()
        self._http = httpx.AsyncClient(trust_env=False, verify=False)
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Front:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1024)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        await self._look()
        self._looking = asyncio.create_task(self._keep_looking())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in (self._looking, *self._tasks):
            task.cancel()
        await asyncio.gather(self._looking, *self._tasks, return_exceptions=True)
        await self._http.aclose()

    async def rests(self, url: str) -> None:
        """Returns when a process gets no connections any more, and has begun to answer those it has."""
        while await self._is_ready(url):  # noqa: ASYNC110 (a test's own pace)
            await asyncio.sleep(LOOK)
        await self._look()  # none that began before is under way any more
        while url in self._ready or self._unanswered[url]:  # noqa: ASYNC110
            await asyncio.sleep(LOOK)

    async def knows(self, url: str) -> None:
        """Returns when a process gets connections: only then may another one go."""
        while url not in self._ready:  # noqa: ASYNC110
            await asyncio.sleep(LOOK)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            await self._look()

    async def _look(self) -> None:
        async with self._one_look:
            urls = [member.url for member in self._fleet.members if member.url]
            answers = await asyncio.gather(*map(self._is_ready, urls))
            self._ready = [url for url, is_ready in zip(urls, answers, strict=True) if is_ready]

    async def _is_ready(self, url: str) -> bool:
        """What it says of itself: a store or model that is slow on a busy machine is no matter here."""
        try:
            return bool((await self._http.get(f"{url}/ready")).json()["server"] == "ok")
        except httpx.TimeoutException:
            return url in self._ready
        except httpx.TransportError:
            return False

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not self._ready:
                raise ConnectionRefusedError
            url = self._ready[next(self._turn) % len(self._ready)]
            self._unanswered[url] += 1
            try:
                there, back = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
                asking = asyncio.create_task(_pipe(reader, back))
                first = await there.read(65536)
            finally:
                self._unanswered[url] -= 1
            writer.write(first)
            await asyncio.gather(asking, _pipe(there, writer))
        except OSError:
            self.refused += 1
        finally:
            writer.close()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Bytes from one to the other until an end; then the other is closed too."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()
