"""Clients that talk through several servers in turn, and count what they did and what they got back."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import httpx

from tests.callers import unframed
from tests.faults.teller import Message, answer
from tests.fleet.replica import MODEL, SESSION

ALIAS = "gpt-9"
THINK = 0.25
"""Seconds between two turns of a talk, on average."""

TURNS = (3, 14)
RESPONSES, CONVERSATIONS = "/v1/responses", "/v1/conversations"
INSTRUCTIONS = [f"You are assistant {at}. " + "Be brief and kind. " * 40 for at in range(6)]
_KINDS = {"input": "input_tokens", "output": "output_tokens"}


class Failed(Exception):
    """A turn that got no whole answer."""


class Counts(Counter[tuple[str, ...]]):
    """What a server must say of itself, by the name of the metric and its labels' values."""

    def spend(self, usage: dict[str, Any] | None) -> None:
        """The tokens of an answer."""
        for kind, key in _KINDS.items():
            self[f"statecar_{kind}_tokens_total",] += (usage or {}).get(key, 0)
        details = (usage or {}).get("input_tokens_details", {})
        self["statecar_cached_tokens_total",] += details.get("cached_tokens", 0)


class Clients:
    """``urls``: the servers. ``counts``: of each, what its metrics must say; ``failed``: by the id of each request that
    got no whole answer, what it got; ``wrong``: what no trouble excuses; ``turns``: how many there were of each kind.
    """

    def __init__(self, urls: Sequence[str], seed: str) -> None:
        self.counts = {url: Counts() for url in urls}
        self.failed: dict[str, str] = {}
        self.wrong: list[str] = []
        self.turns: Counter[str] = Counter()
        self.sessions: dict[str, str] = {}
        self._urls = itertools.cycle(urls)
        self._chance = random.Random(seed)
        self._number = itertools.count()
        self._http = httpx.AsyncClient(
            timeout=30,
            limits=httpx.Limits(max_connections=None),
            headers={"authorization": "Bearer somebody"},
            trust_env=False,
            verify=False,
        )

    async def talk(self, is_over: Callable[[], bool]) -> None:
        """One talk after the other."""
        kinds = [self._chain, self._conversation, self._background, self._keyed, self._passed_on]
        while not is_over():
            await Talk(self, self._chance, f"t{next(self._number)}").hold(self._chance.choice(kinds), is_over)

    async def close(self) -> None:
        await self._http.aclose()

    # -- one turn of each kind: the messages so far, with the new one; gives what was answered

    async def _chain(self, talk: Talk) -> str:
        before = {"previous_response_id": talk.last} if talk.last else {}
        return await self._respond(talk, input=talk.said, **before)

    async def _conversation(self, talk: Talk) -> str:
        if not talk.last:
            made = await self._send("POST", CONVERSATIONS, CONVERSATIONS, talk.id, json={})
            talk.conversation = made.json()["id"]
        return await self._respond(talk, input=talk.said, conversation=talk.conversation)

    async def _background(self, talk: Talk) -> str:
        before = {"previous_response_id": talk.last} if talk.last else {}
        url = next(self._urls)
        body = {"model": talk.model, "input": talk.said, "instructions": talk.instructions, "background": True}
        posted = await self._send("POST", RESPONSES, RESPONSES, talk.id, url=url, json=body | before)
        response = posted.json()
        async with asyncio.timeout(30):
            while response["status"] in ("queued", "in_progress"):
                await asyncio.sleep(0.05)
                path = f"{RESPONSES}/{response['id']}"
                response = (await self._send("GET", path, f"{RESPONSES}/{{response_id}}", talk.id)).json()
        self.counts[url]["statecar_runs_total", response["status"]] += 1
        self.counts[url].spend(response["usage"])
        return self._text(talk, response)

    async def _keyed(self, talk: Talk) -> str:
        """A client that keeps its history itself, and says which cache it means."""
        items = [{"role": role, "content": text} for role, text in talk.messages if role != "system"]
        return await self._respond(talk, input=items, store=False, prompt_cache_key=f"key of {talk.name}")

    async def _passed_on(self, talk: Talk) -> str:
        messages = [{"role": role, "content": text} for role, text in talk.messages]
        body = {"model": talk.model, "messages": messages}
        headers = {SESSION: f"session of {talk.name}"}
        answered = await self._send("POST", "/v1/chat/completions", "passed on", talk.id, json=body, headers=headers)
        talk.last = "any"
        return str(answered.json()["choices"][0]["message"]["content"])

    async def _respond(self, talk: Talk, **fields: Any) -> str:
        url, streams = next(self._urls), self._chance.random() < 0.5
        body = {"model": talk.model, "instructions": talk.instructions, "stream": streams, **fields}
        try:
            answered = await self._send("POST", RESPONSES, RESPONSES, talk.id, url=url, json=body)
        except Failed:
            self.counts[url]["statecar_turns_total", "refused"] += 1
            raise
        response = unframed(answered.content)[-1]["response"] if streams else answered.json()
        self.counts[url]["statecar_turns_total", response["status"]] += 1
        self.counts[url].spend(response["usage"])
        return self._text(talk, response)

    @staticmethod
    def _text(talk: Talk, response: dict[str, Any]) -> str:
        if response["status"] != "completed":
            raise Failed(f"{response['status']}: {response['error']}")
        talk.last = response["id"]
        return "".join(part["text"] for item in response["output"] for part in item["content"])

    async def _send(
        self,
        method: str,
        path: str,
        route: str,
        id_: str,
        *,
        url: str = "",
        headers: dict[str, str] | None = None,
        **how: Any,
    ) -> httpx.Response:
        """An answer that is 200. Raises Failed for any other, and for none."""
        url = url or next(self._urls)
        headers = {"x-request-id": id_, **(headers or {})}
        answered = await self._http.request(method, f"{url}{path}", headers=headers, **how)
        self.counts[url]["statecar_requests_total", method, route, str(answered.status_code)] += 1
        if answered.status_code != 200:
            raise Failed(f"{answered.status_code} {answered.text}")
        return answered


class Talk:
    """One talk. ``name``: what its requests' ids begin with; ``id``: of the request at work; ``said``: its new message;
    ``messages``: all that the model must see for it; ``last``: the response that it goes on from.
    """

    def __init__(self, clients: Clients, chance: random.Random, name: str) -> None:
        self.name = self.id = name
        self.said = self.last = self.conversation = ""
        self.instructions = chance.choice(INSTRUCTIONS)
        self.model = chance.choice((MODEL, ALIAS))
        self.messages: list[Message] = [("system", self.instructions)]
        self._clients, self._chance = clients, chance

    async def hold(self, turn: Callable[[Talk], Coroutine[Any, Any, str]], is_over: Callable[[], bool]) -> None:
        """All its turns, until one fails: what is left of a talk then is for other tests."""
        kind = turn.__name__.strip("_")
        for at in range(self._chance.randint(*TURNS)):
            if is_over():
                return
            self.id = f"{self.name}-{at}"
            self.said = f"This is what {self.name} says at {at}. [words={self._chance.randint(8, 40)}]"
            self.messages.append(("user", self.said))
            self._clients.turns[kind] += 1
            try:
                told = await turn(self)
            except (Failed, httpx.TransportError, TimeoutError) as exc:
                self._clients.failed[self.id] = f"{kind}: {exc!r}"
                return
            if told != answer(self.messages):
                self._clients.wrong.append(f"{self.id} ({kind}): {told!r} is no answer to {self.messages}")
                return
            self.messages.append(("assistant", told))
            await asyncio.sleep(self._chance.expovariate(1 / THINK))
