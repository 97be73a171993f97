"""What is counted, each for one unit of work: whole requests and tokens through a server, and the pieces of a turn."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from bench.works import PIECES
from tests.budgets.counting import Count, grown
from tests.budgets.driving import CHAT, Driver

UNITS = 20
"""Tokens, items or requests that are counted at once."""

TRIES = 8
"""What a server does now and then beside its requests only adds: the least counts that is seen twice, or in so many."""

_FLOOD = 5

Act = Callable[[], object]
T = TypeVar("T")


def pieces() -> dict[str, Count]:
    """The pieces of work that need no server."""
    return {f"{piece.name}, {piece.unit}": grown(piece.make, UNITS) for piece in PIECES}


def counts(driver: Driver) -> dict[str, Count]:
    """What a server does for requests, tokens and items of its history, for ``UNITS`` of each."""
    found = {name: _requests(driver, act) for name, act in _requests_of(driver).items()}
    found |= {f"token one by one, {kind}": tokens(driver, kind) for kind in _STREAMS}
    found |= {f"token in a flood, {kind}": _flood(driver, kind) for kind in ("store: false", "passed on")}
    found["item of a chain"] = _items(driver)
    return found


_STREAMS: dict[str, tuple[str, dict[str, object]]] = {
    "store: false": ("/v1/responses", {"store": False}),
    "stored": ("/v1/responses", {}),
    "background": ("/v1/responses", {"background": True}),
    "passed on": (CHAT, {}),
}


def _requests_of(driver: Driver) -> dict[str, Act]:
    def streamed() -> None:
        with driver.stream():
            pass

    stored = driver.plain()["id"]
    return {
        "request, store: false": lambda: driver.plain(store=False),
        "request, stored": driver.plain,
        "request, in a chain": lambda: driver.plain(previous_response_id=stored),
        "request, streamed": streamed,
        "request, passed on": lambda: driver.plain(CHAT),
        "request, a stored response": lambda: driver.request("GET", f"/v1/responses/{stored}"),
    }


def least(found: Callable[[], T], figure: Callable[[T], Any]) -> T:
    """What is found with the least figure."""
    tries: list[T] = []
    while len(tries) < TRIES:
        tries.append(found())
        figures = list(map(figure, tries))
        if figures.count(min(figures)) > 1:
            break
    return min(tries, key=figure)


def _least(driver: Driver, act: Act) -> Count:
    return least(lambda: driver.counted(act), lambda count: sum(count.figures().values()))


def _requests(driver: Driver, act: Act) -> Count:
    """One request is counted, and each as often: they have nothing in common that could cancel out."""
    act()
    return _least(driver, act).times(UNITS)


def tokens(driver: Driver, kind: str) -> Count:
    """Tokens one by one, of a kind of stream."""
    path, fields = _STREAMS[kind]
    with driver.stream(path, **fields) as tell:
        tell(0, 5)
        return _more(driver, tell)


def _flood(driver: Driver, kind: str) -> Count:
    path, fields = _STREAMS[kind]
    with driver.stream(path, **fields):
        driver.flood(0, 5)
        # many more: a wake-up before or after the others would be one call for every second token
        return _more(driver, lambda first, last: driver.flood(_FLOOD * first, _FLOOD * last)).times(1 / _FLOOD)


def _more(driver: Driver, tell: Callable[[int, int], None]) -> Count:
    """What twice as many tokens take, less what as many do."""
    one, two = _counter(5, UNITS), _counter(5 + UNITS * TRIES, 2 * UNITS)
    once = _least(driver, lambda: tell(*next(one)))
    return _least(driver, lambda: tell(*next(two))).less(once)


def _counter(first: int, tokens: int) -> Iterator[tuple[int, int]]:
    """The numbers of the first token and the one behind the last, again and again."""
    return zip(itertools.count(first, tokens), itertools.count(first + tokens, tokens), strict=True)


def _items(driver: Driver) -> Count:
    """A chain of as many turns has twice as many items: half the turns, so."""
    ids = [driver.plain(input="x" * 500)["id"]]
    while len(ids) < UNITS:
        ids.append(driver.plain(input="x" * 500, previous_response_id=ids[-1])["id"])
    once, twice = (
        _least(driver, lambda id_=ids[depth - 1]: driver.plain(store=False, previous_response_id=id_))
        for depth in (UNITS // 2, UNITS)
    )
    return twice.less(once)
