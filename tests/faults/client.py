"""One client of the soak: it does anything at all, remembers what it was told, and checks all that it is shown."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx

from tests.faults.model import Node, Story, Talk
from tests.faults.teller import Message
from tests.faults.turns import STUCK, WAYS, Site, Turn, Turns

FAULTS = ("fault=reset@1", "fault=close@2", "fault=hang@1", "fault=500")


class Client:
    """``done``: how often it did what; ``checks``: looks that showed what they must; ``nodes``: what others may try."""

    def __init__(self, site: Site, seed: str, number: int, young: float, others: Callable[[], list[Client]]) -> None:
        """``young``: seconds for which what was used is there for certain."""
        self.chance = random.Random(f"{seed}/{number}")
        self.done: Counter[str] = Counter()
        self.checks = 0
        self.nodes: list[Node] = []
        self.talks: list[Talk] = []
        self._site, self._name, self._young, self._others = site, f"c{number}", young, others
        self._count = 0
        self._began = time.monotonic()
        self._http = httpx.AsyncClient(
            timeout=STUCK / 2,
            limits=httpx.Limits(max_keepalive_connections=0, max_connections=None),
            trust_env=False,
            verify=False,
            headers={"authorization": f"Bearer {seed}-{number}"},
        )
        self.turns = Turns(site, self._http, self.chance)

    async def close(self) -> None:
        await self._http.aclose()

    def forget(self) -> None:
        """Begins anew."""
        self.nodes, self.talks = [], []

    async def act(self) -> None:
        """One thing at random. Raises Violation."""
        limit = time.monotonic() - self._young
        self.nodes = [node for node in self.nodes[-12:] if node.used > limit]
        self.talks = [talk for talk in self.talks[-4:] if talk.turns < 12 and talk.used > limit]
        weights = {
            self.begin: 3,
            self.go_on: 6 * bool(self.nodes),
            self.talk: 6,
            self.change_talk: 2 * bool(self.talks),
            self.look_at_talk: 2 * bool(self.talks),
            self.look_at_response: 3 * bool(self.nodes),
            self.list: 1,
            self.delete: bool(self.nodes),
            self.trespass: 1,
        }
        act = self.chance.choices(list(weights), list(weights.values()))[0]
        self.done[act.__name__] += 1
        await act()

    # -- turns

    async def begin(self) -> None:
        """A new chain."""
        await self._chain([], {}, Story(self._began))

    async def go_on(self) -> None:
        """The next turn of a chain, or a branch of it."""
        node = self.chance.choice(self.nodes)
        node.used = time.monotonic()
        await self._chain(node.messages, {"previous_response_id": node.id}, node.story)

    async def _chain(self, messages: list[Message], given: dict[str, Any], story: Story) -> None:
        turn = self._turn([messages], given, story)
        outcome = await self.turns.make(turn)
        if outcome.kind == "made":
            self._keep(turn, [*messages, turn.asked, ("assistant", outcome.text)])

    async def talk(self) -> None:
        """A turn of a conversation, old or new."""
        if not self.talks or self.chance.random() < 0.2:
            await self._open()
        if not self.talks:
            return
        talk = self.chance.choice(self.talks)
        talk.turns, talk.used = talk.turns + 1, time.monotonic()
        held = list(talk.possible)
        turn = self._turn(held, {"conversation": talk.id}, talk.story)
        outcome = await self.turns.make(turn)
        if outcome.kind == "made":
            self._keep(turn, talk.answered(turn.before, turn.asked, outcome.text))
        elif outcome.kind == "unknown":
            said = [[turn.asked, ("assistant", text)] for text in turn.said()]
            talk.possible = held + [one + more for one, more in zip(held, said, strict=True)]

    async def _open(self) -> None:
        story = Story(self._began)
        got = await self._change("POST", "/conversations", story, {})
        if got:
            self.talks.append(Talk(got["id"], story))

    def _turn(self, held: list[list[Message]], given: dict[str, Any], story: Story) -> Turn:
        self._count += 1
        manner = f"words={self.chance.randrange(3, 25)} pause={self.chance.choice((0, 5, 20, 60))}"
        if self.chance.random() < 0.08:
            manner += f" {self.chance.choice(FAULTS)}"
        asked = ("user", f"{self._name}-{self._count} [{manner}]")
        rule: list[Message] = []
        if self.chance.random() < 0.15:
            rule = [("system", f"Rule {self._count}.")]
            given = given | {"instructions": rule[0][1]}
        way = self.chance.choice(WAYS)
        leaves = self.chance.random() < (0.1 if way in ("plain", "streamed", "websocket") else 0.5)
        cancels = way.startswith(("background", "detached")) and self.chance.random() < 0.15
        keyed = way != "websocket" and "fault=" not in manner and self.chance.random() < 0.25
        key = f"{self._name}-{self._count}" if keyed else None
        return Turn(way, asked, [rule + one for one in held], given, story, leaves, cancels, key)

    def _keep(self, turn: Turn, messages: list[Message]) -> None:
        assert turn.id
        self.nodes.append(Node(turn.id, messages, turn.story))

    # -- looks

    async def look_at_response(self) -> None:
        """A response and all that its model saw."""
        node = self.chance.choice(self.nodes)
        status, value = await self.turns.look(f"/responses/{node.id}", node.story)
        if status != 200:
            node.story.broken("lost", f"{node.id} is {status}")
        if _texts(value["output"]) != [node.messages[-1][1]]:
            node.story.broken("wrong", f"{node.id} says {value['output']}, not {node.messages[-1]}")
        status, page = await self.turns.look(f"/responses/{node.id}/input_items", node.story, order="asc", limit="100")
        if status != 200 or _texts(page["data"]) != [text for _, text in node.messages[:-1]]:
            node.story.broken("wrong", f"{node.id} was made of {page}\n        not of {node.messages[:-1]}")
        self.checks += 1

    async def look_at_talk(self) -> None:
        """What a conversation holds."""
        talk = self.chance.choice(self.talks)
        talk.look([message for _, message in await self._items(talk)])
        self.checks += 1

    async def _items(self, talk: Talk) -> list[tuple[str, Message]]:
        """Its items with their ids."""
        path = f"/conversations/{talk.id}/items"
        status, page = await self.turns.look(path, talk.story, order="asc", limit="100")
        if status != 200:
            talk.story.broken("lost", f"{talk.id} is {status}")
        return [(item["id"], (item["role"], item["content"][0]["text"])) for item in page["data"]]

    async def list(self) -> None:
        """Nobody's responses but its own, each once."""
        story = Story(self._began)
        status, page = await self.turns.look("/responses", story, limit="50")
        ids = [row["id"] for row in page["data"]]
        if len(set(ids)) < len(ids):
            story.broken("doubled", f"a list has {ids}")
        if status != 200 or not all(_texts(row["input"])[0].startswith(f"{self._name}-") for row in page["data"]):
            story.broken("wrong", f"a list has {page}")
        self.checks += 1

    async def trespass(self) -> None:
        """What others have is not there."""
        other = self.chance.choice(self._others())
        if other is self or not other.nodes:
            return
        node, story = self.chance.choice(other.nodes), Story(self._began)
        for path in (f"/responses/{node.id}", f"/responses/{node.id}/input_items"):
            status, value = await self.turns.look(path, story)
            if status != 404:
                story.broken("wrong", f"{self._name} sees {path}: {status} {value}")
        self.checks += 1

    # -- changes

    async def change_talk(self) -> None:
        """An item more in a conversation, or one less."""
        talk = self.chance.choice(self.talks)
        talk.used = time.monotonic()
        items = await self._items(talk)
        talk.look([message for _, message in items])
        if items and self.chance.random() < 0.4:
            id_, gone = self.chance.choice(items)
            done = await self._change("DELETE", f"/conversations/{talk.id}/items/{id_}", talk.story)
            less = [[one for one in held if one != gone] for held in talk.possible]
            talk.possible = less if done else talk.possible + less
        else:
            self._count += 1
            added: Message = ("user", f"{self._name}-{self._count} noted")
            body = {"items": [{"role": "user", "content": added[1]}]}
            done = await self._change("POST", f"/conversations/{talk.id}/items", talk.story, body)
            more = [[*held, added] for held in talk.possible]
            talk.possible = more if done else talk.possible + more

    async def delete(self) -> None:
        """A response less; what goes on from it does not mind."""
        node = self.nodes.pop(self.chance.randrange(len(self.nodes)))
        if await self._change("DELETE", f"/responses/{node.id}", node.story):
            status, _ = await self.turns.look(f"/responses/{node.id}", node.story)
            if status != 404:
                node.story.broken("wrong", f"{node.id} was deleted, and is {status}")
            self.checks += 1

    async def _change(self, method: str, path: str, story: Story, body: Any = None) -> Any:
        """The answer to what may be asked once only; None when nobody knows whether it was done."""
        story.tell(f"{method} {path} {body or ''}")
        began = time.monotonic()
        try:
            got = await self._http.request(method, f"{self._site.any_url(self.chance)}/v1{path}", json=body)
        except httpx.TransportError as exc:
            story.tell(f"  cut: {exc!r}")
            if not self._site.felt_since(began):
                story.broken("wrong", f"{path} was cut with {exc!r}, and nothing was wrong")
        else:
            if got.status_code == 200:
                return got.json()
            story.tell(f"  {got.status_code} {got.text}")
            if got.status_code != 503:
                story.broken("wrong", f"{method} {path}: {got.status_code} {got.text}")
            if not self._site.felt_since(began):
                self.turns.refused["503 store_unavailable"] += 1
        await self._site.calm()
        return None


def _texts(items: list[dict[str, Any]]) -> list[str]:
    return [item["content"][0]["text"] for item in items]
