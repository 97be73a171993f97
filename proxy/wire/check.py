"""Checks of single values and the errors they raise (wire §2.3).

A check takes a value and its place (``input[1].role``) and gives the value back, or raises ``InvalidRequest``. Nothing
is coerced: ``true`` is no integer and ``"1"`` no number. Strings may hold lone surrogates; they are legal JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from proxy.errors import InvalidRequest

Check = Callable[[Any, str], Any]

LONGEST_TEXT = 10_485_760
LONGEST_IMAGE_URL = 20_971_520
LONGEST_FILE = 33_554_432
LONGEST_SEALED = 20_971_520

_METADATA_PAIRS, _METADATA_KEY, _METADATA_VALUE = 16, 64, 512
_SHOWN = 100
"""Characters of a client's own value that an error message repeats."""


def missing(at: str) -> InvalidRequest:
    """The error for a required value that is not there."""
    return InvalidRequest(f"Missing required parameter: '{at}'.", code="missing_required_parameter", param=at)


def wrong_type(at: str, expected: str, value: Any) -> InvalidRequest:
    """The error for a value of another JSON type; ``expected`` with its article; an empty ``at`` is the body itself."""
    place = f"'{at}'" if at else "the request body"
    return InvalidRequest(
        f"Invalid type for {place}: expected {expected}, but got {_kind(value)} instead.",
        code="invalid_type",
        param=at or None,
    )


def wrong_value(at: str, value: str, supported: tuple[str, ...]) -> InvalidRequest:
    """The error for a string that is none of those supported."""
    *others, last = [f"'{name}'" for name in supported]
    names = f"{', '.join(others)}{',' if len(others) > 1 else ''} and {last}" if others else last
    return InvalidRequest(
        f"Invalid value: '{value[:_SHOWN]}'. Supported values are: {names}.", code="invalid_value", param=at
    )


def wrong_form(at: str, value: str, form: str) -> InvalidRequest:
    """The error for a string with other characters, or of another length, than ``form`` says."""
    return InvalidRequest(f"Invalid value: '{value[:_SHOWN]}'. Expected {form}.", code="invalid_value", param=at)


def empty_array(at: str) -> InvalidRequest:
    """The error for a list that must hold something."""
    return InvalidRequest(
        f"Invalid '{at}': empty array. Expected an array with minimum length 1, but got an empty array instead.",
        code="empty_array",
        param=at,
    )


def unsupported(at: str, message: str) -> InvalidRequest:
    """The error for something known that this server cannot do."""
    return InvalidRequest(message, code="unsupported_parameter", param=at)


def string(value: Any, at: str) -> str:
    """Any string, the empty one too."""
    if not isinstance(value, str):
        raise wrong_type(at, "a string", value)
    return value


def boolean(value: Any, at: str) -> bool:
    """``true`` or ``false``."""
    if not isinstance(value, bool):
        raise wrong_type(at, "a boolean", value)
    return value


def array(value: Any, at: str) -> list[Any]:
    """Any list."""
    if not isinstance(value, list):
        raise wrong_type(at, "an array", value)
    return value


def mapping(value: Any, at: str) -> dict[str, Any]:
    """Any object, as it came."""
    if not isinstance(value, dict):
        raise wrong_type(at, "an object", value)
    return value


def without_nulls(value: Any, at: str) -> dict[str, Any]:
    """A copy of an object without the keys that are null: null says the same as absent (wire §4.1)."""
    return {key: inner for key, inner in mapping(value, at).items() if inner is not None}


def strings(value: Any, at: str) -> list[str]:
    """A list of strings."""
    return [string(entry, f"{at}[{i}]") for i, entry in enumerate(array(value, at))]


def required(value: Any, at: str) -> str:
    """A string that must be there (null is not) and not empty."""
    if value is None:
        raise missing(at)
    text = string(value, at)
    if not text:
        raise InvalidRequest(
            f"Invalid '{at}': empty string. Expected a string with minimum length 1, but got an empty string instead.",
            code="empty_string",
            param=at,
        )
    return text


def short(value: Any, at: str, longest: int) -> str:
    """A string of at most ``longest`` characters."""
    text = string(value, at)
    if len(text) > longest:
        raise InvalidRequest(
            f"Invalid '{at}': string too long. Expected a string with maximum length {longest}, "
            f"but got a string with length {len(text)} instead.",
            code="string_above_max_length",
            param=at,
        )
    return text


def integer(low: int, high: int | None = None) -> Check:
    """A check for integers within bounds, both inclusive."""

    def check(value: Any, at: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise wrong_type(at, "an integer", value)
        within("integer", value, at, low, high)
        return value

    return check


def decimal(low: float | None = None, high: float | None = None) -> Check:
    """A check for numbers, whole or not, within bounds, both inclusive."""

    def check(value: Any, at: str) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise wrong_type(at, "a decimal", value)
        within("decimal", value, at, low, high)
        return value

    return check


def within(kind: str, value: float, at: str, low: float | None, high: float | None) -> None:
    """Raises unless ``low <= value <= high``; ``kind`` is ``integer`` or ``decimal``."""
    if low is not None and value < low:
        bound, code, sign, limit = "below minimum", "below_min", ">=", low
    elif high is not None and value > high:
        bound, code, sign, limit = "above maximum", "above_max", "<=", high
    else:
        return
    raise InvalidRequest(
        f"Invalid '{at}': {kind} {bound} value. Expected a value {sign} {limit}, but got {value} instead.",
        code=f"{kind}_{code}_value",
        param=at,
    )


def one_of(*supported: str) -> Callable[[Any, str], str]:
    """A check for one of these strings."""

    def check(value: Any, at: str) -> str:
        text = string(value, at)
        if text not in supported:
            raise wrong_value(at, text, supported)
        return text

    return check


def fields(value: dict[str, Any], at: str, checks: dict[str, Check]) -> dict[str, Any]:
    """The same dict with every key that ``checks`` knows checked and put in its checked form; others are left alone."""
    for key, inner in value.items():
        check = checks.get(key)
        if check is not None:
            value[key] = check(inner, f"{at}.{key}" if at else key)
    return value


def metadata(value: Any, at: str) -> dict[str, str]:
    """At most 16 pairs, keys of 64 and string values of 512 characters (wire §4.1)."""
    pairs = mapping(value, at)
    if len(pairs) > _METADATA_PAIRS:
        raise InvalidRequest(
            f"Invalid '{at}': too many properties. Expected an object with at most {_METADATA_PAIRS} properties, "
            f"but got an object with {len(pairs)} properties instead.",
            code="object_above_max_properties",
            param=at,
        )
    for key in pairs:
        if len(key) > _METADATA_KEY:
            raise InvalidRequest(
                f"Invalid property name in '{at}': '{key[:3]}...{key[-3:]}' is too long. Expected a string with "
                f"maximum length {_METADATA_KEY}, but got a string with length {len(key)} instead.",
                code="property_name_above_max_length",
                param=f"{at}.{key}",
            )
    return {key: short(text, f"{at}.{key}", _METADATA_VALUE) for key, text in pairs.items()}


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    for kind, name in _KINDS:
        if isinstance(value, kind):
            return name
    raise AssertionError(f"{type(value)} is no JSON value")


# bool before int: Python counts True among the integers
_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "a boolean"),
    (int, "an integer"),
    (float, "a decimal number"),
    (str, "a string"),
    (list, "an array"),
    (dict, "an object"),
)
