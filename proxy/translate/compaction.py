"""Compaction: the earlier part of a talk as a summary in one item, and what the model sees later (wire §3.7, §10.8)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from proxy import codec
from proxy.errors import InvalidRequest
from proxy.translate.items import Event, OutputItem
from proxy.translate.truncation import is_output, last_question, speaks_for_all, steps

Item = dict[str, Any]

_LEAD = "This is a summary of the conversation before this point, which is no longer shown:\n\n"
_ASK = (
    "Stop here and do not go on with the task. Write a summary of this conversation that will replace it, so that"
    " somebody who reads nothing else can go on without asking again. State: what the user wants and every instruction"
    " and preference that still holds; what has been done, decided and found out, with the exact names, paths, numbers,"
    " ids and results of tools that may still be needed; what an earlier summary says of it; what is unfinished, and"
    " the next step.{users} Write the summary only, without a preface, in the language of the conversation."
)
_USERS_STAY = " The user's own messages will be kept beside the summary, word for word: do not repeat them."


def question(*, users_stay: bool) -> Item:
    """The user message that asks a model for the summary. ``users_stay``: as for ``packed``."""
    text = _ASK.format(users=_USERS_STAY if users_stay else "")
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def packed(summary: str, *, users_stay: bool) -> str:
    """What a compaction item carries, to be sealed. ``users_stay``: the user messages before it go on being sent."""
    return codec.dumps({"summary": summary, "users_stay": users_stay}).decode()


def compacted(items: list[Item], open_: Callable[[str], str | None]) -> list[Item]:
    """What the model sees of a context, oldest first: from its last compaction item on, and its summary in front.

    Of what lies before the item stay system and developer messages, ``additional_tools``, the user messages where the
    summary leaves them out, and what was not answered yet when it was made: the last user messages and the model's
    newest step, where it ends in outputs or has a call without one. ``open_``: ``encrypted_content`` to what ``packed``
    gave, None for anything else. Raises InvalidRequest for an item that is not ours, another tenant's, or changed.
    """
    found = [at for at, item in enumerate(items) if item["type"] == "compaction"]
    if not found:
        return items
    at = found[-1]
    summary, users_stay = _read(items[at], open_)
    before, after = items[:at], items[at + 1 :]
    unanswered = _unanswered(before)
    told = {"type": "message", "role": "system", "content": [{"type": "input_text", "text": _LEAD + summary}]}
    kept = [
        item
        for at, item in enumerate(before)
        if (at in unanswered and item["type"] != "compaction") or (users_stay and item.get("role") == "user")
    ]
    return [*filter(speaks_for_all, before), told, *kept, *after]


def holds_more(items: list[Item]) -> bool:
    """Whether there is anything a summary could stand for: more than what is still to be answered."""
    return len(_unanswered(items)) < sum(map(len, steps(items)))


def _read(item: Item, open_: Callable[[str], str | None]) -> tuple[str, bool]:
    given = item.get("encrypted_content")
    text = open_(given) if isinstance(given, str) else None
    try:
        value = codec.loads(text or "")
        summary, users_stay = value["summary"], value["users_stay"]
    except (ValueError, KeyError, TypeError):
        summary = users_stay = None
    if not isinstance(summary, str) or not isinstance(users_stay, bool):
        raise InvalidRequest(
            f"The encrypted content '{str(given)[:32]}' of a compaction item could not be read: it was not made by"
            " this server for this caller, or it was changed.",
            param="input",
            code="invalid_encrypted_content",
        )
    return summary, users_stay


def _unanswered(items: list[Item]) -> set[int]:
    """The places of what was still to be answered: the last user messages; outputs and open calls, with their step."""
    units = steps(items)
    talk = [at for unit in units for at in unit]
    if not talk:
        return set()
    last = items[talk[-1]]
    if not (last.get("role") == "user" or is_output(last) or _has_open_call(items, units[-1])):
        return set()
    asked = talk.index(last_question(items)) if last_question(items) >= 0 else -1
    first = asked
    while first > 0 and items[talk[first - 1]].get("role") == "user":
        first -= 1
    return {*units[-1], *talk[max(first, 0) : asked + 1]}


def _has_open_call(items: list[Item], unit: list[int]) -> bool:
    """Whether a unit holds a call without its output, which may still come."""
    called = {items[at].get("call_id") for at in unit if not is_output(items[at])} - {None}
    return not called <= {items[at].get("call_id") for at in unit if is_output(items[at])}


class Compaction(OutputItem):
    """A compaction item, which comes whole: ``added`` shows it empty, ``done`` with its content."""

    def __init__(self, index: int, item: Item, *, told: bool) -> None:
        """``told``: whether ``response.compaction.compacting`` comes in between, which a trigger's asker knows."""
        super().__init__(index, {**item, "encrypted_content": ""})
        self._content, self._told = item["encrypted_content"], told

    def open(self) -> Iterator[Event]:
        yield from super().open()
        if self._told:
            yield self.at("response.compaction.compacting")

    def close(self, status: str) -> Iterator[Event]:
        self.closed = True
        self.item["encrypted_content"] = self._content
        yield self._whole("response.output_item.done")
