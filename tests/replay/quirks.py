"""The scripts under ``tests/scripts/quirks`` as values."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from typing import Any

from tests.backend import STREAM_END, STREAM_HEAD, Step, chunked, json_reply
from tests.replay.recordings import SCRIPTS, load


@dataclass(frozen=True)
class Turn:
    """One request and what must come of it. ``answers``: what the backend says, call after call."""

    request: dict[str, Any]
    continues: bool
    answers: tuple[tuple[Step, ...], ...]
    expect: dict[str, Any]


@dataclass(frozen=True)
class Script:
    """A quirk. ``dialect``: the kind of server that has it; ``row``: of wire §12.1, or the section that tells of it."""

    name: str
    dialect: str
    row: int | str
    source: str
    options: tuple[str, ...]
    alone: bool
    prefix: str
    turns: tuple[Turn, ...]


@functools.cache
def scripts() -> tuple[Script, ...]:
    """Every script, in the order of the files."""
    return tuple(
        _script(path.stem, value)
        for path in sorted((SCRIPTS / "quirks").glob("*.json"))
        for value in json.loads(path.read_text("utf-8"))
    )


def fits(value: Any, wanted: Any) -> bool:
    """Whether ``value`` is what a script wants: of objects the keys it names, ``{"$matches": …}`` for any such text."""
    if isinstance(wanted, dict):
        if "$matches" in wanted:
            return isinstance(value, str) and re.fullmatch(wanted["$matches"], value) is not None
        return isinstance(value, dict) and all(k in value and fits(value[k], v) for k, v in wanted.items())
    if isinstance(wanted, list):
        return isinstance(value, list) and len(value) == len(wanted) and all(map(fits, value, wanted))
    return type(value) is type(wanted) and bool(value == wanted)


def _script(dialect: str, value: dict[str, Any]) -> Script:
    return Script(
        name=f"{value['row']}, {dialect}: {value['name']}",
        dialect=dialect,
        row=value["row"],
        source=value["source"],
        options=tuple(value.get("options", ())),
        alone=value.get("alone", False),
        prefix=value.get("prefix", "/v1"),
        turns=tuple(map(_turn, value.get("turns", [value]))),
    )


def _turn(value: dict[str, Any]) -> Turn:
    answers = value.get("upstreams") or [value["upstream"]]
    return Turn(value.get("request", {}), value.get("continues", False), tuple(map(_answer, answers)), value["expect"])


def _answer(value: dict[str, Any]) -> tuple[Step, ...]:
    if "recorded" in value:
        return load(value["recorded"]).steps()
    if "json" in value:
        return (json_reply(value["json"], status=value.get("status", 200)),)
    return (STREAM_HEAD, *(chunked(_frame(frame)) for frame in value["frames"]), STREAM_END)


def _frame(frame: Any) -> bytes:
    return (frame if isinstance(frame, str) else f"data: {json.dumps(frame)}\n\n").encode()
