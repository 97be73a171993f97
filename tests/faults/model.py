"""What statecar promises, as naively as it can be written: lists of messages, and what may have become of them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import NoReturn

from tests.faults.teller import Message, answer


class Violation(Exception):
    """A promise that was broken. ``kind``: lost, doubled, stuck or wrong."""

    def __init__(self, kind: str, told: str, story: list[str]) -> None:
        super().__init__(told)
        self.kind, self.told, self.story = kind, told, list(story)


@dataclass
class Story:
    """What has been done with a lineage, to be told when something is wrong with it."""

    began: float
    lines: list[str] = field(default_factory=list)

    def tell(self, line: str) -> None:
        self.lines.append(f"{time.monotonic() - self.began:7.2f} {line}")

    def broken(self, kind: str, told: str) -> NoReturn:
        self.tell(f"{kind.upper()}: {told}")
        raise Violation(kind, told, self.lines)


@dataclass
class Node:
    """A response that is there: what it was asked and answered, oldest first. ``used``: when it last was."""

    id: str
    messages: list[Message]
    story: Story
    used: float = field(default_factory=time.monotonic)


@dataclass
class Talk:
    """A conversation. ``possible``: what it may hold; more than one where nobody can know before the next look."""

    id: str
    story: Story
    possible: list[list[Message]] = field(default_factory=lambda: [[]])
    turns: int = 0
    used: float = field(default_factory=time.monotonic)

    def look(self, seen: list[Message]) -> None:
        """What a list of its items must be."""
        if seen in self.possible:
            return
        if len(set(seen)) < len(seen):
            self.story.broken("doubled", f"{self.id} holds {seen}")
        sure = [one for one in self.possible[0] if all(one in held for held in self.possible)]
        kind = "lost" if any(one not in seen for one in sure) else "wrong"
        self.story.broken(kind, f"{self.id} holds {seen}\n        but may hold {self.possible}")

    def answered(self, before: list[list[Message]], asked: Message, text: str) -> list[Message]:
        """What it holds after a turn, whose text tells what it saw. ``before``: ``possible`` with the instructions."""
        for held, seen in zip(self.possible, before, strict=True):
            if answer([*seen, asked]) == text:
                self.possible = [[*held, asked, ("assistant", text)]]
                return self.possible[0]
        self.story.broken("wrong", f"{text!r} is no answer to {asked} after any of {self.possible}")
