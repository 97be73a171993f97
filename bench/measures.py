"""What is measured of statecar, beside the bare relay in the same run, and the budgets it is held to."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass

from bench.systems import CHAT, Bench, Load, System, Work

ROUNDS = 3
STATELESS, STORED, PASSED = Work(fields={"store": False}), Work(), Work(CHAT)
BACKGROUND = Work(fields={"background": True})
_US = 1e6


@dataclass
class Figure:
    """``value`` in ``unit``; ``base``: what it is compared with, ``budget``: the most that its ratio to ``base`` may be
    or, without one, the value itself. None: it is told only. ``alone``: the same of the backend without anything before
    it.
    """

    name: str
    value: float
    unit: str
    base: float | None = None
    budget: float | None = None
    against: str = "relay"
    alone: float | None = None

    @property
    def judged(self) -> float:
        """What is held against the budget."""
        return self.value / self.base if self.base else self.value

    @property
    def holds(self) -> bool:
        return self.budget is None or self.judged <= self.budget


class Measures:
    """``own``: statecar, ``relay``: what it is compared with, each alone on a core. ``free``: starts statecar with so
    many workers, on any core.

    ``parts``: what is measured, by name, in the order in which it must be; memory comes before loads that leave some
    behind for it to use.
    """

    def __init__(
        self, bench: Bench, own: System, relay: System, free: Callable[[int], AbstractContextManager[System]]
    ) -> None:
        self._bench, self._own, self._relay, self._alone, self._free = bench, own, relay, bench.alone, free
        self.figures: list[Figure] = []
        self._idle, self._relay_idle = own.memory(), relay.memory()
        self.parts = {
            "memory": self._memory,
            "plain": self._plain,
            "first": self._first_event,
            "one": self._one_by_one,
            "flood": self._flood,
            "history": self._history,
            "background": self._background,
            "workers": self._workers,
            "flat": self._flat,
        }

    def run(self, only: Collection[str] = ()) -> None:
        """All parts, in some five minutes, or only these."""
        self._warm()
        for name, measure in self.parts.items():
            if not only or name in only:
                measure()

    def _add(self, name: str, value: float, unit: str, **rest: float | str | None) -> None:
        self.figures.append(Figure(name, value, unit, **rest))  # type: ignore[arg-type]

    def _warm(self) -> None:
        for system, works in ((self._relay, [PASSED]), (self._own, [STATELESS, STORED, PASSED])):
            for work in works:
                self._bench.load(system, work, "plain", 8, seconds=0.5)
                self._bench.load(system, work, "flood-50", 4, requests=20, stream=True, tokens=50)

    # -- requests

    def _plain(self) -> None:
        def load(system: System, work: Work) -> Load:
            return self._bench.load(system, work, "plain", 16, seconds=2)

        base, stateless, stored, passed, alone = self._in_turn(load, _per_request)
        self._add("plain request, store: false", stateless, "us", base=base, budget=2.0, alone=alone)
        self._add("plain request, stored", stored, "us", base=base, budget=3.0, alone=alone)
        self._add("plain request, passed on", passed, "us", base=base, budget=1.15, alone=alone)
        load_of = self._bench.load(self._own, STORED, "plain", 1, requests=300)
        self._add("round trips to the store, stored", load_of.reads / load_of.requests, "", budget=2.05)
        self._add("the store's own CPU, stored", load_of.store_cpu / load_of.requests * _US, "us")

    def _in_turn(self, load: Callable[[System, Work], Load], figure: Callable[[Load], float]) -> list[float]:
        """The least of each over the rounds: the relay, store: false, stored, passed on; and the backend's own."""
        tried = [(self._relay, PASSED), (self._own, STATELESS), (self._own, STORED), (self._own, PASSED)]
        rounds = [[figure(load(system, work)) for system, work in tried] for _ in range(ROUNDS)]
        return [*(min(each) for each in zip(*rounds, strict=True)), figure(load(self._alone, PASSED))]

    def _first_event(self) -> None:
        def first(system: System, work: Work) -> float:
            told = self._bench.load(system, work, "paced-3x200", 1, requests=70, stream=True, tokens=3).told
            return float(told["first_p50"]) / 1000

        kinds = {"store: false": STATELESS, "stored": STORED, "background": BACKGROUND, "passed on": PASSED}
        tried = [(self._relay, PASSED), *((self._own, work) for work in kinds.values())]
        rounds = [[first(system, work) for system, work in tried] for _ in range(ROUNDS)]
        base, *own = (min(each) for each in zip(*rounds, strict=True))
        for name, value in zip(kinds, own, strict=True):
            self._add(f"first event, {name}, added", value - base, "ms", budget=None if name == "background" else 1.0)
        self._add("first event of the relay", base, "ms", alone=first(self._alone, PASSED))

    # -- tokens

    def _one_by_one(self) -> None:
        def load(system: System, work: Work) -> Load:
            return self._bench.load(system, work, "paced-40x10", 120, requests=120, stream=True, tokens=40, ramp=0.5)

        base, stateless, stored, passed, alone = self._in_turn(load, _per_token)
        self._add("token one by one, store: false", stateless, "us", base=base, budget=1.35, alone=alone)
        self._add("token one by one, stored", stored, "us", base=base, budget=1.35, alone=alone)
        self._add("token one by one, passed on", passed, "us", base=base, budget=1.15, alone=alone)

    def _flood(self) -> None:
        def load(system: System, work: Work) -> Load:
            return self._bench.load(system, work, "flood-500", 4, seconds=1.5, stream=True, tokens=500)

        base, stateless, stored, passed, alone = self._in_turn(load, _per_token)
        self._add("token in a flood, store: false", stateless, "us", base=base, budget=2.5, alone=alone)
        self._add("token in a flood, stored", stored, "us", base=base, budget=2.5, alone=alone)
        self._add("token in a flood, passed on", passed, "us", base=base, budget=1.15, alone=alone)

    def _background(self) -> None:
        def load(work: Work) -> float:
            made = self._bench.load(self._own, work, "paced-100x50", 10, requests=10, stream=True, tokens=100, ramp=0.5)
            return _per_token(made)

        rounds = [(load(STORED), load(BACKGROUND)) for _ in range(ROUNDS)]
        base, background = (min(each) for each in zip(*rounds, strict=True))
        self._add("background token, 50 a second", background, "us", base=base, budget=1.6, against="foreground")

    def _workers(self) -> None:
        """On all cores, beside the load and the backend. Nothing is stored: on two cores the store would be in the way.

        Two have twice the connections, as what comes at once is cheaper.
        """

        def load(workers: System, connections: int) -> Load:
            return self._bench.load(workers, STATELESS, "plain", connections, seconds=1.5)

        with self._free(1) as one, self._free(2) as two:
            load(one, 32), load(two, 64)
            rounds = [(load(one, 32), load(two, 64)) for _ in range(ROUNDS)]
            share = two.busier(lambda: load(two, 64))
        (base, own), (slow, fast) = (
            [min(map(figure, each)) for each in zip(*rounds, strict=True)] for figure in (_per_request, _time)
        )
        self._add("plain request, store: false, two workers", own, "us", base=base, budget=1.2, against="one worker")
        self._add("time per request of two busy workers", fast, "us", base=slow, budget=0.65, against="one worker")
        self._add("share of the busier of two workers", share, "", budget=0.65)

    # -- history

    def _history(self) -> None:
        at = self._chain(1000)
        costs = {}
        for depth in (1, 100, 1000):
            work = Work(fields={"store": False, "previous_response_id": at[depth]})
            loads = [self._bench.load(self._own, work, "plain", 4, seconds=1.2) for _ in range(ROUNDS)]
            costs[depth] = min(map(_per_request, loads)) / 1000
            trips = loads[0].reads / loads[0].requests
        self._add("turn at depth 1", costs[1], "ms")
        self._add("turn at depth 100, more than at 1", costs[100] - costs[1], "ms")
        self._add("turn at depth 1000, more than at 1", costs[1000] - costs[1], "ms", budget=12)
        self._add("round trips to the store at depth 1000", trips, "", budget=1.05)
        conversation = self._post("/v1/conversations", {})["id"]
        work = Work(fields={"conversation": conversation})
        made = self._bench.load(self._own, work, "plain", 1, requests=200)
        self._add("turns 1 to 200 of a conversation", _per_request(made) / 1000, "ms")
        self._add("round trips to the store, conversation", made.reads / made.requests, "")

    def _chain(self, depth: int) -> dict[int, str]:
        """The ids of a chain's responses by their depth; a turn brings 500 bytes."""
        ids: dict[int, str] = {}
        body: dict[str, str] = {"model": "plain", "input": "x" * 500}
        for turn in range(1, depth + 1):
            ids[turn] = self._post("/v1/responses", body)["id"]
            body["previous_response_id"] = ids[turn]
        return ids

    def _post(self, path: str, body: dict[str, str]) -> dict[str, str]:
        url = f"http://127.0.0.1:{self._own.port}{path}"
        request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read())  # type: ignore[no-any-return]

    # -- memory

    def _memory(self) -> None:
        self._add("memory at rest", self._idle, "MB", budget=70)
        self._add("memory at rest, of the relay", self._relay_idle, "MB")
        self._add("memory of a stream, 2000 open", self._per_stream(self._own, STORED, 2000, 6), "KB", budget=55)
        self._add("memory of a stream, 1000 open at the relay", self._per_stream(self._relay, PASSED, 1000, 3), "KB")

    def _per_stream(self, system: System, work: Work, count: int, ramp: int) -> float:
        """Kilobytes that a system takes more for each of so many open streams, which begin within ``ramp`` seconds."""
        peak, before, tokens = 0.0, system.memory(), 4 * ramp

        def watch() -> None:
            nonlocal peak
            peak = max(peak, system.memory())

        model = f"paced-{tokens}x2"  # all are open for as long again
        self._bench.load(system, work, model, count, requests=count, stream=True, tokens=tokens, ramp=ramp, watch=watch)
        return (peak - before) * 1024 / count

    def _flat(self) -> None:
        self._bench.load(self._own, STATELESS, "plain", 16, requests=5_000)
        time.sleep(0.5)
        before = self._own.memory()
        self._bench.load(self._own, STATELESS, "plain", 16, requests=100_000)
        time.sleep(0.5)
        self._add("memory after 100,000 turns more", self._own.memory() - before, "MB", budget=2)


def _per_request(load: Load) -> float:
    return load.cpu / load.requests * _US


def _per_token(load: Load) -> float:
    return load.cpu / load.tokens * _US


def _time(load: Load) -> float:
    return float(load.told["wall"]) / load.requests * _US
