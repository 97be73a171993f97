"""JSON bytes to values and back: orjson, with the standard library where orjson refuses lone surrogates."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

import orjson


def loads(data: bytes | str) -> Any:
    """The value of a JSON text. Raises ValueError for anything else.

    ``"\\ud83d"`` alone is legal JSON that orjson refuses; such a text is read once more by the standard library.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        if "surrogate" not in str(exc) and "hex escape" not in str(exc):
            raise
    try:
        return json.loads(data, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("the JSON text is nested too deeply") from None


loads_utf8 = orjson.loads
"""``loads`` of a text that holds no lone surrogate, else ValueError; without a frame of its own, for short texts."""


dumps_utf8 = orjson.dumps
"""``dumps`` of what holds no lone surrogate, else TypeError; without a frame of its own, for short values."""


def dumps(value: Any) -> bytes:
    """Compact UTF-8 JSON; lone surrogates leave escaped. Raises ValueError for what is nested too deeply: some 1000
    levels, 10,000 from Python 3.13 on.
    """
    try:
        return orjson.dumps(value)
    except TypeError:
        try:
            return json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode()
        except RecursionError:
            raise ValueError("the value is nested too deeply for JSON") from None


def without_surrogates(value: Any) -> Any:
    """The same value with a question mark for each lone surrogate, for readers of UTF-8. Raises ValueError as dumps."""
    try:
        return loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    except RecursionError:
        raise ValueError("the value is nested too deeply for JSON") from None


def fitted(data: bytes) -> bytes:
    """The same, for what is kept: ``orjson``'s bytes occupy 4 KB at least, and up to ten times their length."""
    return b"".join((data, b""))


def canonical(value: Any) -> bytes:
    """The same bytes for values that are the same, whatever the order of their keys."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _finite(number: str) -> float:
    value = float(number)
    return value if math.isfinite(value) else _refuse(number)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
