"""What the model servers' diaries tell, put together: what was cached where, and whose calls a kill has cut."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Told:
    """``prompt``: tokens of all calls behind the instructions, which many talks share and every replica soon knows;
    ``known``: those that were in the cache of the replica that was asked; ``ideal``: those in the cache of any replica
    that lived. ``ended``: calls answered whole, by replica; ``cut``: ids
    of calls that a kill has cut, and the replica; ``sessions``: what the calls of a talk said that they belong to.
    """

    prompt: int = 0
    known: int = 0
    ideal: int = 0
    calls: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    cut: dict[str, str] = field(default_factory=dict)
    sessions: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    @property
    def share(self) -> float:
        """Of what one cache that all of them share would have known."""
        return self.known / self.ideal


def told(diaries: dict[str, Path], kills: list[tuple[float, str]]) -> Told:
    """``diaries``: by replica; ``kills``: when each was."""
    found = Told()
    caches: dict[str, set[str]] = {replica: set() for replica in diaries}
    open_: dict[str, set[str]] = {replica: set() for replica in diaries}
    for _at, replica, line in sorted(_lines(diaries, kills), key=lambda entry: entry[0]):
        match line["what"]:
            case "kill":
                caches[replica].clear()
                found.cut |= dict.fromkeys(open_[replica], replica)
                open_[replica].clear()
            case "begin":
                open_[replica].add(line["id"])
                _begin(found, line, caches, replica)
            case "end":
                open_[replica].discard(line["id"])
                found.ended[replica] += 1
                caches[replica].add(line["block"][0])
    return found


def _lines(diaries: dict[str, Path], kills: list[tuple[float, str]]) -> Iterator[tuple[float, str, dict[str, Any]]]:
    yield from ((at, replica, {"what": "kill"}) for at, replica in kills)
    for replica, path in diaries.items():
        for text in path.read_text().splitlines():
            line = json.loads(text)
            yield line["at"], replica, line


def _begin(found: Told, line: dict[str, Any], caches: dict[str, set[str]], replica: str) -> None:
    found.calls += 1
    (_, instructions), *said = line["blocks"]
    found.known += max(line["known"] - instructions, 0)
    found.prompt += sum(tokens for _, tokens in said)
    found.sessions[line["id"].partition("-")[0]].add(line["session"])
    for digest, tokens in said:
        if not any(digest in cache for cache in caches.values()):
            break
        found.ideal += tokens
    caches[replica] |= {digest for digest, _ in line["blocks"]}
