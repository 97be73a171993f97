"""A context that is too long for its model, made shorter from its beginning (``truncation: auto``, wire §10.7)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from proxy.translate.hosted_items import is_answered

Item = dict[str, Any]

SHARES = (0.75, 0.5, 0.375, 0.25, 0.125, 0.03, 0.0)
"""How much of what may go is kept, try by try: gently first, nothing at last."""

_FILES = ("image_url", "file_data", "data")
_FILE_SIZE = 4000
"""Characters an image or a file counts for: the length of its base64 says nothing of its tokens."""


def shortened(items: list[Item], share: float) -> list[Item]:
    """The items, oldest first, without the oldest: at most ``share`` (0 to 1, by size) of what may go is kept.

    What always stays: system and developer messages, ``additional_tools``, the last user message and the model's newest
    step after it. The rest goes in whole: a turn, from a user message to the next one, and within the newest turn a
    step: thoughts, text, calls and their outputs. A call and its output are never parted.
    """
    units = _units(items)
    sizes = [sum(_size(items[at]) for at in unit) for unit in units]
    room = sum(sizes) * share
    gone: set[int] = set()
    for unit, size in zip(reversed(units), reversed(sizes), strict=True):
        room -= size
        if room < 0:
            gone.update(unit)
    return [item for at, item in enumerate(items) if at not in gone]


def shorter(items: list[Item], sent: list[Item], shares: Iterator[float]) -> list[Item] | None:
    """Less than was ``sent`` of the items, by the next of the ``shares`` that gives less; None when none does."""
    return next((less for share in shares if len(less := shortened(items, share)) < len(sent)), None)


def speaks_for_all(item: Item) -> bool:
    """Whether an item holds for the whole talk, and not for one turn of it."""
    return item["type"] == "additional_tools" or item.get("role") in ("system", "developer")


def is_output(item: Item) -> bool:
    """Whether an item is what a tool gave back, or holds it."""
    return str(item["type"]).endswith("_output") or is_answered(item)


def last_question(items: list[Item]) -> int:
    """The place of the last user message; -1 for none."""
    return max((at for at, item in enumerate(items) if item.get("role") == "user"), default=-1)


def steps(items: list[Item]) -> list[list[int]]:
    """The places of each turn, and of each step after the last user message, oldest first; a call with its output."""
    bounds = [*_starts(items), len(items)]
    units = _joined(items, [list(range(*pair)) for pair in zip(bounds, bounds[1:], strict=False)])
    return [[at for at in unit if not speaks_for_all(items[at])] for unit in units]


def _units(items: list[Item]) -> list[list[int]]:
    """The places of what goes or stays together, oldest first, without what always stays."""
    question = last_question(items)
    return [unit for unit in steps(items)[:-1] if question not in unit]


def _starts(items: list[Item]) -> list[int]:
    """Where turns begin, and after the last user message steps. What speaks for all is passed over."""
    question = last_question(items)
    found: list[int] = []
    last: int | None = None
    for at, item in enumerate(items):
        if speaks_for_all(item):
            continue
        begins = last is None or item.get("role") == "user"
        if not begins and last is not None and at > question:
            begins = last == question or is_output(items[last])
        if begins:
            found.append(at)
        last = at
    return found


def _joined(items: list[Item], units: list[list[int]]) -> list[list[int]]:
    """Units made one where a call's output lies in a later one, with all between them."""
    called: dict[str, int] = {}
    reach = list(range(len(units)))  # the oldest unit that each belongs together with
    for number, unit in enumerate(units):
        for at in unit:
            id_ = str(items[at].get("call_id", ""))
            if is_output(items[at]):
                reach[number] = min(reach[number], called.get(id_, number))
            elif id_:
                called[id_] = number
    glued: set[int] = set()  # numbers of units that belong to the one before
    oldest = len(units)
    for number in reversed(range(len(units))):
        oldest = min(oldest, reach[number])
        if oldest < number:
            glued.add(number)
    joined: list[list[int]] = []
    for number, unit in enumerate(units):
        if number in glued:
            joined[-1] += unit
        else:
            joined.append(unit)
    return joined


def _size(value: Any) -> int:
    """About how much a value takes of a context, in characters."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return sum(map(_size, value))
    if isinstance(value, dict):
        return sum(min(_size(inner), _FILE_SIZE) if key in _FILES else _size(inner) for key, inner in value.items())
    return 1
