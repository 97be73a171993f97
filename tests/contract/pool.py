"""What callers have on the server while it is tried out, and the ids that the places in a case stand for."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import Any

import httpx

from tests.callers import unframed

PLACE = re.compile(r"@(resp|conv|item)\.(mine|fresh|foreign|unknown)\.(\d)")

_WEATHER = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class Holding:
    """One caller's responses and conversations, four of each, and an item of each conversation."""

    def __init__(self, http: httpx.Client, tenant: str, user: str) -> None:
        self._http, self._key = http, {"x-tenant": tenant, "x-user": user}
        conversations = [self._post("/conversations", items=[_said(f"Number {n}")]) for n in range(4)]
        first = self._post("/responses", model="demo", input="My name is Ada.")
        second = self._post("/responses", model="demo", input=[_said("Think: hello")], previous_response_id=first["id"])
        cut = self._streamed(model="demo", input="Count to 50", max_output_tokens=5, background=True)
        within = self._post("/responses", model="demo", input="Hi", conversation=conversations[0]["id"])
        self.ids = {
            "resp": [one["id"] for one in (first, second, cut, within)],
            "conv": [one["id"] for one in conversations],
            "item": [self._first_item(one["id"]) for one in conversations],
        }

    def fresh(self, kind: str, number: int) -> str:
        """The id of something made just now."""
        if kind == "resp":
            return str(self._post("/responses", model="demo", input="Hi", background=number % 2 == 1)["id"])
        if kind == "conv":
            return str(self._post("/conversations", items=[_said("x")])["id"])
        added = self._post(f"/conversations/{self.ids['conv'][number]}/items", items=[_said("x")])
        return str(added["data"][0]["id"])

    def send(self, request: httpx.Request) -> httpx.Response:
        request.headers.update(self._key)
        return self._http.send(request)

    def _first_item(self, conversation: str) -> str:
        page = self.send(self._http.build_request("GET", f"/v1/conversations/{conversation}/items?order=asc"))
        return str(page.json()["data"][0]["id"])

    def _streamed(self, **body: Any) -> dict[str, Any]:
        """The response of a stream, whose events can be asked for again."""
        answer = self.send(self._http.build_request("POST", "/v1/responses", json=body | {"stream": True}))
        last: dict[str, Any] = unframed(answer.content)[-1]["response"]
        assert last["status"] == "incomplete", answer.text
        return last

    def _post(self, path: str, /, **body: Any) -> dict[str, Any]:
        answer = self.send(self._http.build_request("POST", f"/v1{path}", json=body))
        assert answer.status_code == 200, answer.text
        made: dict[str, Any] = answer.json()
        return made


class Others:
    """What nobody under test may touch, and so stays: of another tenant, and of another user of ``tenant``."""

    def __init__(self, http: httpx.Client) -> None:
        self.tenant = secrets.token_hex(8)
        self.holdings = Holding(http, secrets.token_hex(8), "ada"), Holding(http, self.tenant, "ada")


class Pool:
    """The holdings of the caller under test, and those of others."""

    def __init__(self, http: httpx.Client, others: Others) -> None:
        self.mine, self._foreign = Holding(http, others.tenant, secrets.token_hex(8)), others.holdings

    def filled(self, *texts: str, foreign: bool = True) -> tuple[list[str], list[str]]:
        """(texts with every place filled in, ids that are not the caller's).

        The same place is the same id. ``foreign``: whether another caller's ids are used where they are asked for;
        without it ids that never were stand there.
        """
        known: dict[str, str] = {}
        others: list[str] = []

        def fill(place: re.Match[str]) -> str:
            kind, owner, number = place[1], place[2], int(place[3]) % 4
            if place[0] not in known:
                known[place[0]] = self._id(kind, owner, number, foreign)
                if owner in ("foreign", "unknown"):
                    others.append(known[place[0]])
            return known[place[0]]

        return [PLACE.sub(fill, text) for text in texts], others

    def _id(self, kind: str, owner: str, number: int, foreign: bool) -> str:
        if owner == "mine":
            return self.mine.ids[kind][number]
        if owner == "fresh":
            return self.mine.fresh(kind, number)
        if owner == "foreign" and foreign:
            return self._foreign[number % 2].ids[kind][number]
        return _UNKNOWN[kind]()


def _said(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": text}


def _minted(prefix: str, ordinal: str) -> Callable[[], str]:
    return lambda: f"{prefix}_{secrets.token_hex(22)}{ordinal}"


_UNKNOWN = {"resp": _minted("resp", "0000"), "conv": _minted("conv", "0000"), "item": _minted("msg", "0001")}
