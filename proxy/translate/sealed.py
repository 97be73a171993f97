"""Sealed thoughts that clients send back, readable again before they are translated (wire §7.6, §10.9)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Item = dict[str, Any]

_TEXTS = ("content", "summary")


def opened(items: list[Item], open_: Callable[[str], str | None]) -> list[Item]:
    """The items with the text of every sealed thought in its ``content``.

    ``open_``: a sealed text's text, None for one that is not ours; such an item stays as it is, and says nothing to the
    model. A thought that is readable as it stands is not opened. The given items are not changed.
    """
    return [_readable(item, open_) if item["type"] == "reasoning" else item for item in items]


def _readable(item: Item, open_: Callable[[str], str | None]) -> Item:
    sealed = item.get("encrypted_content")
    if not isinstance(sealed, str) or any(part.get("text") for key in _TEXTS for part in item.get(key) or ()):
        return item
    text = open_(sealed)
    return {**item, "content": [{"type": "reasoning_text", "text": text}]} if text else item
