"""Clients that read a background stream in pieces, through any process, and put it together."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx

from tests.callers import COMMENT, DONE

PATIENCE = 60.0
"""Seconds until a stream must have come to its end."""


class Seen:
    """What one reader has of a stream: ``frames``, byte for byte, one an event; half frames are forgotten.

    ``pieces``: the connections it took; ``refused``: the body of the last answer that was no stream.
    """

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.refused = ""
        self.pieces = 0
        self._rest = b""

    @property
    def events(self) -> list[dict[str, Any]]:
        return [_event(frame) for frame in self.frames]

    @property
    def id(self) -> str | None:
        return str(_event(self.frames[0])["response"]["id"]) if self.frames else None

    @property
    def is_over(self) -> bool:
        return bool(self.frames) and self.frames[-1].split(b"\n")[0][7:] in (
            b"response.completed",
            b"response.incomplete",
            b"response.failed",
        )

    def begin(self) -> None:
        """Another connection."""
        self._rest = b""
        self.pieces += 1

    def feed(self, data: bytes) -> None:
        """More bytes. Raises AssertionError for an event that is not the next one."""
        *frames, self._rest = (self._rest + data).split(b"\n\n")
        for frame in frames:
            if frame.decode() in (COMMENT, f"data: {DONE}"):
                continue
            number = _event(frame)["sequence_number"]
            assert number == len(self.frames), f"event {number} came after {len(self.frames)} events"
            self.frames.append(frame)


def _event(frame: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(frame.split(b"\n", 1)[1][6:])
    return found


async def read(http: httpx.AsyncClient, seen: Seen, method: str, url: str, *, most: float = 1e9, **how: Any) -> int:
    """One connection's part of a stream, at most so many bytes of it, or all until it is cut. Gives the status."""
    seen.begin()
    async with http.stream(method, url, **how) as answer:
        if answer.status_code != 200:
            seen.refused = (await answer.aread()).decode()
            return answer.status_code
        async for data in answer.aiter_raw():
            taken = data[: int(min(most, len(data)))]
            seen.feed(taken)
            most -= len(taken)
            if most <= 0:
                break
        return 200


async def follow(
    http: httpx.AsyncClient,
    seen: Seen,
    id_: str,
    any_url: Callable[[], str],
    most: Callable[[], float] = lambda: 1e9,
) -> None:
    """Goes on with a stream where it stopped, each time through any process, until its end.

    ``most``: bytes that a connection gives before its reader hangs up.
    """
    async with asyncio.timeout(PATIENCE):
        while not seen.is_over:
            after = {"starting_after": str(len(seen.frames) - 1)} if seen.frames else {}
            url = f"{any_url()}/v1/responses/{id_}"
            try:
                status = await read(http, seen, "GET", url, most=most(), params={"stream": "true", **after})
            except httpx.TransportError:
                status = 0
            assert status in (200, 0, 503), f"{status} for the stream of {id_}"
            if status != 200:
                await asyncio.sleep(0.05)
