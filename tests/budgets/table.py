"""The table of budgets, ``figures.json``: what was measured when it was written. A figure may be a little above it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.budgets import measures, trips
from tests.budgets.counting import Count
from tests.budgets.driving import Driver, driven

FILE = Path(__file__).with_name("figures.json")
AIR = 0.1
"""How far above the table a figure may be. Python 3.12 and 3.13 take 0.81 to 1.03 of 3.11, with which it is written."""

EXACT = 0.015
"""The same for calls of what is counted as a difference, a token, an item, a piece of a turn: they are the same each
time and, but for comprehensions, on every Python. A token in the background is 3 % dearer when it has to wait for the
store.
"""

FREE = {"calls": 1.5, "bytecodes": 15}
"""What is always allowed above the table: one wake-up more among many tokens does as much."""

SLACK = 0.3
"""How far below it a figure may be, before the table has to be written anew: else it would hold nothing."""


@dataclass
class Found:
    """``counts``: for ``UNITS`` of each. ``round_trips``: for one."""

    counts: dict[str, Count] = field(default_factory=dict)
    round_trips: dict[str, float] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        """In the form of the table."""
        return {
            "counts": {name: per_unit(count) for name, count in self.counts.items()},
            "round trips": self.round_trips,
        }


def found(store: str) -> Found:
    """All there is, on a store that nobody else uses."""

    def drive(driver: Driver) -> Found:
        return Found(measures.pieces() | measures.counts(driver), trips.round_trips(driver))

    told: Found = driven(store, drive)
    told.round_trips |= driven(store, trips.limited_round_trips, *trips.LIMITS)
    return told


def per_unit(count: Count) -> dict[str, float]:
    return {kind: max(0.0, round(number / measures.UNITS, 1)) for kind, number in count.figures().items()}


def written() -> dict[str, Any]:
    """The table."""
    table: dict[str, Any] = json.loads(FILE.read_text())
    return table


def write(figures: dict[str, Any]) -> None:
    FILE.write_text(json.dumps(figures, indent=1) + "\n")


def allowed(name: str, kind: str, then: float) -> float:
    """The most that a figure may be; ``then``: what the table says."""
    is_exact = kind == "calls" and not name.startswith("request, ") and "background" not in name
    return then + max(FREE[kind], then * (EXACT if is_exact else AIR))


def exceeded(name: str, count: Count, table: dict[str, Any]) -> str:
    """What is to be said of a count that is over its budget; "" of one that is not."""
    over = [
        f"{now:g} {kind} instead of {then:g} ({allowed(name, kind, then):g} at most)"
        for kind, then in table["counts"][name].items()
        if (now := per_unit(count)[kind]) > allowed(name, kind, then)
    ]
    if not over:
        return ""
    most = "\n".join(count.lines(measures.UNITS)[:25])
    return (
        f"{name}: for each {' and '.join(over)}. Now:\n{most}\n"
        f"The whole of it: python -m tests.budgets '{name}'; the same before the change tells where it has grown.\n"
        "Where it must grow: python -m tests.budgets --write, and the reason in the commit's message."
    )


def slack(name: str, count: Count, table: dict[str, Any]) -> str:
    """What is to be said of a budget that is far above what is needed; "" of one that is not."""
    then, now = table["counts"][name]["bytecodes"], per_unit(count)["bytecodes"]
    if now >= then * (1 - SLACK) - FREE["bytecodes"]:
        return ""
    return f"{name}: {now:g} bytecodes, {then:g} in the table. Write it anew: python -m tests.budgets --write"
