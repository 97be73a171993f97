"""Round trips to the store, for each kind of request."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

from tests.budgets.driving import RESPONSES, Driver
from tests.budgets.measures import UNITS, least

Work = tuple[Callable[[], Any], Callable[[Any], object]]
"""What is made before, and the request on it."""


def round_trips(driver: Driver, only: str | None = None) -> dict[str, float]:
    """For one request of each kind; for one token of streams, also of those that store as they go. ``only``: this."""
    found: dict[str, float] = {}
    for name, (prepare, act) in {**_responses(driver), **_conversations(driver)}.items():
        if only not in (name, None):
            continue
        act(prepare())  # scripts and connections are there
        found[name] = least(partial(_once, driver, prepare, act), int)
    for name, fields in ({} if only else {"stored": {}, "background": {"background": True}}).items():
        found[f"token one by one, {name}"] = _per_token(driver, fields)
    return found


LIMITS = tuple(
    f"--tenant-{name}=1000000"
    for name in ("requests-per-minute", "tokens-per-minute", "concurrent-turns", "stored-bytes")
)
"""Options that limit every tenant."""

_LIMITED = (
    "create, store: false",
    "create",
    "create, streamed",
    "create, in the background",
    "retrieve",
    "delete",
    "passed on",
    "conversation, create",
)


def limited_round_trips(driver: Driver) -> dict[str, float]:
    """The same for a tenant with limits, where these may tell."""
    return {f"{name}, limited": round_trips(driver, only=name)[name] for name in _LIMITED}


def _once(driver: Driver, prepare: Callable[[], Any], act: Callable[[Any], object]) -> int:
    prepared = prepare()
    return driver.round_trips(lambda: act(prepared))


def _per_token(driver: Driver, fields: dict[str, Any]) -> float:
    with driver.stream(**fields) as tell:
        tell(0, 5)
        parts = itertools.count(5, UNITS)

        def once() -> int:
            first = next(parts)
            return driver.round_trips(lambda: tell(first, first + UNITS))

        return least(once, int) / UNITS


def _responses(driver: Driver) -> dict[str, Work]:
    def nothing() -> None: ...

    def stored() -> str:
        return str(driver.plain()["id"])

    def branching() -> str:
        stored_before = stored()
        driver.plain(previous_response_id=stored_before)
        return stored_before

    def running() -> str:
        return str(driver.begun()["id"])

    def streamed(fields: dict[str, Any]) -> None:
        with driver.stream(**fields):
            pass

    def get(id_: str, what: str = "") -> object:
        return driver.request("GET", f"{RESPONSES}/{id_}{what}")

    return {
        "create, store: false": (nothing, lambda _: driver.plain(store=False)),
        "create": (nothing, lambda _: driver.plain()),
        "create, streamed": (nothing, lambda _: streamed({})),
        "create, in a chain": (stored, lambda id_: driver.plain(previous_response_id=id_)),
        "create, as a branch": (branching, lambda id_: driver.plain(previous_response_id=id_)),
        "create, in a chain, store: false": (stored, lambda id_: driver.plain(previous_response_id=id_, store=False)),
        "create, in the background": (nothing, lambda _: streamed({"background": True})),
        "retrieve": (stored, get),
        "retrieve, one being made": (running, get),
        "input_items": (stored, lambda id_: get(id_, "/input_items")),
        "list": (stored, lambda _: driver.request("GET", f"{RESPONSES}?limit=2")),
        "delete": (stored, lambda id_: driver.request("DELETE", f"{RESPONSES}/{id_}")),
        "cancel": (running, lambda id_: driver.request("POST", f"{RESPONSES}/{id_}/cancel")),
        "passed on": (nothing, lambda _: driver.plain("/v1/chat/completions")),
    }


def _conversations(driver: Driver) -> dict[str, Work]:
    path = "/v1/conversations"
    item = {"type": "message", "role": "user", "content": "Hi"}

    def made() -> str:
        return str(driver.request("POST", path, {"items": [item]})["id"])

    def one_item() -> str:
        conversation = made()
        [first] = driver.request("GET", f"{path}/{conversation}/items")["data"]
        return f"{path}/{conversation}/items/{first['id']}"

    def ask(method: str, what: str = "", body: Any = None) -> Callable[[str], object]:
        return lambda id_: driver.request(method, f"{path}/{id_}{what}", body)

    return {
        "create, in a conversation": (made, lambda id_: driver.plain(conversation=id_)),
        "create, of a conversation, store: false": (made, lambda id_: driver.plain(conversation=id_, store=False)),
        "conversation, create": (lambda: None, lambda _: made()),
        "conversation, retrieve": (made, ask("GET")),
        "conversation, update": (made, ask("POST", "", {"metadata": {"a": "b"}})),
        "conversation, delete": (made, ask("DELETE")),
        "conversation, list items": (made, ask("GET", "/items")),
        "conversation, add items": (made, ask("POST", "/items", {"items": [item]})),
        "conversation, retrieve an item": (one_item, lambda at: driver.request("GET", at)),
        "conversation, delete an item": (one_item, lambda at: driver.request("DELETE", at)),
    }
