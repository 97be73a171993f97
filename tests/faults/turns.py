"""One turn of the soak, asked for in any way, and what has become of it once everything about it has settled."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tests.faults.model import Story
from tests.faults.reading import Seen, read
from tests.faults.teller import Message, answer
from tests.live import strict

STUCK = 60.0
"""Seconds after which something that should have ended counts as stuck: longer than any lease and every retry."""

ENDS = ("completed", "incomplete", "failed", "cancelled")

WAYS = ("plain", "streamed", "websocket", "background", "background streamed", "detached", "detached streamed")


class Site(Protocol):
    """Where turns are asked for, and what is known of its troubles."""

    def any_url(self, chance: random.Random) -> str:
        """Of a process that is ready, or was a moment ago."""

    def felt_since(self, moment: float) -> bool:
        """Whether anything asked for since then may have met a trouble."""

    async def calm(self) -> None:
        """Returns in peace, when nothing that was sent in a trouble is still on its way."""


@dataclass
class Turn:
    """What is asked, and what is known of it. ``before``: each history it may have, instructions included.

    ``leaves``: the client does, at some point; ``cancels``: it wants an end; ``key``: an Idempotency-Key, with which it
    asks again until it knows.
    """

    way: str
    asked: Message
    before: list[list[Message]]
    body: dict[str, Any]
    story: Story
    leaves: bool = False
    cancels: bool = False
    key: str | None = None
    id: str | None = None
    began: float = field(default_factory=time.monotonic)
    seen: Seen = field(default_factory=Seen)

    @property
    def is_run(self) -> bool:
        """Whether it goes on without its client, once it has an id."""
        return bool(self.key) or self.way.startswith(("background", "detached"))

    @property
    def is_faulty(self) -> bool:
        return "fault=" in self.asked[1]

    def said(self) -> list[str]:
        """What the model may say to it."""
        return [answer([*before, self.asked]) for before in self.before]


@dataclass(frozen=True)
class Outcome:
    """``kind``: made (and stored, with this text), nothing (surely), or unknown until the next look."""

    kind: str
    text: str = ""


NOTHING, UNKNOWN, LOCKED = Outcome("nothing"), Outcome("unknown"), Outcome("locked")


class Turns:
    """Makes turns as one client. ``ends``: how they ended, by way; ``refused``: clear refusals in peace.

    ``pieces``: connections for streams; ``repeated``: turns that were told of twice, asked for with their key.
    """

    def __init__(self, site: Site, http: httpx.AsyncClient, chance: random.Random) -> None:
        self._site, self._http, self._chance = site, http, chance
        self.ends: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.pieces = self.repeated = 0

    async def make(self, turn: Turn) -> Outcome:
        """What came of it. Raises Violation."""
        turn.story.tell(f"{turn.way} {turn.asked[1]!r} {turn.body.get('previous_response_id', '')}")
        try:
            async with asyncio.timeout(STUCK):
                outcome = await self._settled(turn)
        except TimeoutError:
            turn.story.broken("stuck", f"{turn.way} {turn.id or turn.body} has not ended in {STUCK:g} s")
        self.pieces += turn.seen.pieces
        self.ends[f"{turn.way}{', keyed' * bool(turn.key)}: {outcome.kind}"] += 1
        turn.story.tell(f"  {outcome.kind} {turn.id or ''}")
        return outcome

    async def _settled(self, turn: Turn) -> Outcome:
        """Asks until the conversation is free, and with a key until the outcome is known: once is what it is made."""
        while True:
            outcome = await self._once(turn)
            if outcome is LOCKED:
                await asyncio.sleep(0.5)
            elif outcome is UNKNOWN and turn.key:
                before, id_, turn.leaves, turn.seen, turn.id = turn.seen, turn.id, False, Seen(), None
                turn.story.tell("  again, with the same key")
                outcome = await self._settled(turn)
                if outcome.kind == "made" and id_:
                    await self._same(turn, id_, before)
                return outcome
            else:
                return outcome

    async def _same(self, turn: Turn, id_: str, before: Seen) -> None:
        """What was made at last is what was told before, or that has failed."""
        self.repeated += 1
        if turn.id == id_:
            if turn.seen.frames[: len(before.frames)] != before.frames and turn.seen.frames:
                turn.story.broken("wrong", f"the stream of {id_} was another before")
            return
        status, value = await self.look(f"/responses/{id_}", turn.story)
        if status == 200 and value["status"] not in ("failed", "cancelled"):
            turn.story.broken("doubled", f"{id_} was made too, and is {value['status']}")

    async def _once(self, turn: Turn) -> Outcome:
        turn.began = time.monotonic()
        url = f"{self._site.any_url(self._chance)}/v1/responses"
        headers = {"statecar-on-disconnect": "detach"} if turn.way.startswith("detached") else {}
        headers |= {"idempotency-key": turn.key} if turn.key else {}
        background = {"background": True} if turn.way.startswith("background") else {}
        body = {"model": "m", "input": turn.asked[1]} | turn.body | background
        if turn.way.endswith("streamed"):
            return await self._streamed(turn, url, headers, body | {"stream": True})
        if turn.way == "websocket":
            return await self._over_websocket(turn, url.replace("http", "ws", 1), body)
        leaving = self._chance.uniform(0, 0.5) if turn.leaves else None
        try:
            async with asyncio.timeout(leaving):
                got = await self._http.post(url, json=body, headers=headers)
        except TimeoutError:
            return await self._cut(turn)
        except httpx.TransportError as exc:
            return await self._cut(turn, exc)
        if got.status_code != 200:
            return await self._refused(turn, got.status_code, strict.error(got.json()))
        response = got.json()
        turn.id = response["id"]
        return await self._end(turn) if background else await self._judged(turn, response)

    async def _streamed(self, turn: Turn, url: str, headers: dict[str, str], body: dict[str, Any]) -> Outcome:
        most = self._chance.randrange(12000) if turn.leaves else 1e9
        cut: Exception | None = None
        status = 0
        try:
            status = await read(self._http, turn.seen, "POST", url, most=most, json=body, headers=headers)
        except httpx.TransportError as exc:
            cut = exc
        except AssertionError as exc:
            turn.story.broken("wrong", str(exc))
        if status not in (0, 200):
            return await self._refused(turn, status, strict.error(json.loads(turn.seen.refused)))
        turn.id = turn.seen.id
        if turn.seen.is_over:
            return await self._judged(turn, self._valid(turn))
        if not (cut or turn.leaves or turn.is_run):
            turn.story.broken("wrong", f"the stream of {turn.id} ended without an end")
        return await self._cut(turn, cut)

    async def _over_websocket(self, turn: Turn, url: str, body: dict[str, Any]) -> Outcome:
        most = self._chance.randrange(20) if turn.leaves else 10**9
        headers = {"authorization": self._http.headers["authorization"]}
        cut: Exception | None = None
        try:
            async with connect(
                url, additional_headers=headers, proxy=None, max_size=None, open_timeout=STUCK
            ) as socket:
                await socket.send(json.dumps({"type": "response.create"} | body))
                while not turn.seen.is_over and len(turn.seen.frames) < most:
                    event = json.loads(await socket.recv())
                    if event["type"] == "error":
                        return await self._refused(turn, event["status"], event["error"])
                    turn.seen.feed(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        except (OSError, WebSocketException) as exc:
            cut = exc
        turn.id = turn.seen.id
        return await (self._judged(turn, self._valid(turn)) if turn.seen.is_over else self._cut(turn, cut))

    async def _cut(self, turn: Turn, exc: Exception | None = None) -> Outcome:
        """The client has no answer: it left, or its connection broke."""
        turn.story.tell(f"  cut: {exc!r}" if exc else "  left")
        if isinstance(exc, httpx.TimeoutException):
            turn.story.broken("stuck", f"{turn.way}: no byte for long")
        if exc and not self._site.felt_since(turn.began):
            turn.story.broken("wrong", f"{turn.way} was cut with {exc!r}, and nothing was wrong")
        await self._site.calm()
        if turn.key and self._chance.random() < 0.5:
            return UNKNOWN
        if turn.id and turn.is_run:
            return await self._end(turn)
        if turn.id:
            status, value = await self.look(f"/responses/{turn.id}", turn.story)
            if status == 200:
                return await self._judged(turn, value)
        return UNKNOWN

    async def _refused(self, turn: Turn, status: int, error: dict[str, Any]) -> Outcome:
        turn.story.tell(f"  {status} {error['code']} {error['message']}")
        if error["code"] == "conversation_locked":
            return LOCKED
        if status in (400, 404):
            kind = "lost" if "not found" in error["message"] else "wrong"
            turn.story.broken(kind, f"{turn.way} was refused: {status} {error['message']}")
        if "Sorry about that" in error["message"]:
            turn.story.broken("wrong", f"{turn.way}: {status} {error['message']}")
        if turn.is_faulty and error["code"] != "store_unavailable":
            return NOTHING
        if not self._site.felt_since(turn.began):
            self.refused[f"{status} {error['code']}"] += 1
        await self._site.calm()
        return UNKNOWN

    async def _end(self, turn: Turn) -> Outcome:
        """A run must come to its end, however often its readers and processes change."""
        assert turn.id
        if turn.cancels:
            await asyncio.sleep(self._chance.uniform(0, 0.3))
            status, value = await self.look(f"/responses/{turn.id}/cancel", turn.story, method="POST")
            detached = turn.way.startswith("detached") and status == 400  # it had ended before
            if not detached and (status != 200 or value["status"] not in ENDS):
                turn.story.broken("lost" if status == 404 else "wrong", f"cancel: {status} {value}")
        while turn.way.endswith("streamed") and not turn.seen.is_over:
            await self._follow(turn)
        while True:
            status, value = await self.look(f"/responses/{turn.id}", turn.story)
            if status != 200:
                turn.story.broken("lost", f"{turn.id} was accepted, and is {status}")
            if value["status"] in ENDS:
                break
            await asyncio.sleep(0.1)
        if turn.seen.is_over and self._valid(turn) != value:
            turn.story.broken("wrong", f"told {turn.seen.events[-1]['response']}\n        but holds {value}")
        return await self._judged(turn, value)

    async def _follow(self, turn: Turn) -> None:
        after = {"starting_after": str(len(turn.seen.frames) - 1)} if turn.seen.frames else {}
        url = f"{self._site.any_url(self._chance)}/v1/responses/{turn.id}"
        most = self._chance.choice((self._chance.randrange(1, 8000), 1e9))
        began = time.monotonic()
        try:
            status = await read(self._http, turn.seen, "GET", url, most=most, params={"stream": "true", **after})
        except httpx.TransportError as exc:
            turn.story.tell(f"  reader cut: {exc!r}")
            status = 0
        except AssertionError as exc:
            turn.story.broken("wrong", f"resumed after {len(turn.seen.frames)} events: {exc}")
        if status in (400, 404):
            turn.story.broken("lost", f"the stream of {turn.id} is {status}: {turn.seen.refused}")
        if status not in (0, 200, 503) or (status == 503 and not self._site.felt_since(began)):
            self.refused[f"{status} for a reader"] += 1
        await asyncio.sleep(0.05)

    async def _judged(self, turn: Turn, response: dict[str, Any]) -> Outcome:
        """What an end says."""
        status = response["status"]
        text = "".join(part["text"] for item in response["output"] for part in item["content"])
        if status == "completed" and text in turn.said():
            if turn.is_faulty:
                turn.story.broken("wrong", f"{turn.id} is whole, but its upstream broke")
            return Outcome("made", text)
        if status == "completed" or not any(said.startswith(text) for said in turn.said()):
            turn.story.broken("wrong", f"{turn.id} is {status} with {text!r}, none of {turn.said()}")
        if status == "cancelled" and turn.cancels:
            return NOTHING
        troubled = self._site.felt_since(turn.began)
        if status != "failed" or not (turn.is_faulty or troubled):
            turn.story.broken("wrong", f"{turn.id} is {status}, and nothing was wrong: {response['error']}")
        turn.story.tell(f"  failed: {response['error']}")
        if not troubled:
            return NOTHING
        await self._site.calm()
        return UNKNOWN

    def _valid(self, turn: Turn) -> dict[str, Any]:
        """The response of a whole stream's end."""
        try:
            return strict.grammar(turn.seen.events)
        except AssertionError as exc:
            turn.story.broken("wrong", f"the stream of {turn.id} is not valid: {exc!r}")

    async def look(self, path: str, story: Story, *, method: str = "GET", **query: Any) -> tuple[int, Any]:
        """(status, JSON) of what may be asked twice; asked again while processes and stores come and go."""
        until = time.monotonic() + STUCK
        while True:
            began = time.monotonic()
            url = f"{self._site.any_url(self._chance)}/v1{path}"
            try:
                got = await self._http.request(method, url, params=query)
                if got.status_code < 500:
                    return got.status_code, got.json()
                told = f"{got.status_code} {got.text}"
                if "Sorry about that" in told:
                    story.broken("wrong", f"{path}: {told}")
                if not self._site.felt_since(began):
                    self.refused[f"{got.status_code} {got.json()['error']['code']}"] += 1
            except httpx.TransportError as exc:
                told = repr(exc)
            if time.monotonic() > until:
                story.broken("stuck", f"{path}: {told} for {STUCK:g} s")
            await asyncio.sleep(0.1)
