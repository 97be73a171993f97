"""What an option says of itself, and how the texts that give it become its value, wherever they stand."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml

from proxy.values import redacted

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SWITCH = ("on", "off")
_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


class SettingsError(ValueError):
    """A wrong option: one line that names it, its value (never a secret's) and what is right."""


@dataclass(frozen=True)
class Option:
    """What a field of Settings says beside its name, type and default; ``shown``: the default in words.

    ``check``: gives the value of a text, ``parse``: that of a structure, lists and mappings of texts, which the config
    file holds in place, a flag or a variable as YAML or ``@FILE``. Both raise ValueError with what is right.
    """

    group: str
    help: str
    low: float = 0
    high: float = float("inf")
    check: Callable[[str], str] | None = None
    secret: bool = False
    metavar: str | None = None
    shown: str | None = None
    parse: Callable[[Any], Any] | None = None


def option(default: Any, group: str, help: str, **rest: Any) -> Any:
    given = {"default_factory": default} if callable(default) else {"default": default}
    return field(**given, metadata={"option": Option(group, help, **rest)})


def of(f: Field[Any]) -> Option:
    option: Option = f.metadata["option"]
    return option


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def variable(f: Field[Any]) -> str:
    return f"STATECAR_{f.name.upper()}"


def is_choice(f: Field[Any]) -> bool:
    return get_origin(f.type) is Literal


def is_list(f: Field[Any]) -> bool:
    return get_origin(f.type) is tuple and not of(f).parse


def public(f: Field[Any], value: Any) -> Any:
    if of(f).secret:
        return "***" if value else value
    return redacted(value) if isinstance(value, str) else value


def default_of(f: Field[Any]) -> str:
    """The default as one would write it; empty for none."""
    if (shown := of(f).shown) is not None:
        return shown
    match f.default:
        case bool() as flag:
            return str(flag).lower()
        case tuple() as entries:
            return ",".join(entries)
        case float() as number:
            return f"{number:g}"
        case default:
            return "" if default is MISSING else str(default)


def value_of(f: Field[Any], where: str, given: Any) -> Any:
    option = of(f)
    try:
        if option.parse:
            return option.parse(_structure(given))
        if isinstance(given, bool):
            return given
        texts = given if isinstance(given, list) and is_list(f) else [given]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"must be {'a list of texts' if is_list(f) else 'one value'}")
        if is_list(f):
            texts = [entry.strip() for text in texts for entry in text.split(",") if entry.strip()]
        if option.secret:
            texts = _secrets(texts)
        if is_list(f):
            return tuple(map(option.check, texts)) if option.check else tuple(texts)
        if len(texts) > 1:
            raise ValueError("must be one key")
        return _single(f, option, texts[0])
    except ValueError as exc:
        value = (
            ""
            if option.secret or option.parse
            else f"={redacted(given)!r}"
            if isinstance(given, str)
            else f"={[redacted(text) if isinstance(text, str) else text for text in given]!r}"
            if isinstance(given, list)
            else f"={given!r}"
        )
        raise SettingsError(f"{where}{value}: {exc}") from None


def _secrets(texts: list[str]) -> list[str]:
    """The keys, those of ``@FILE`` and ``file:PATH`` read, one a line. Never none: that would open a door.

    Without what surrounds them: secrets that were made of files tend to end in a newline, which is no part of a key.
    """
    keys: list[str] = []
    for text in texts:
        text = text.strip()
        path = text.removeprefix("@" if text.startswith("@") else "file:")
        try:
            keys += [text] if path == text else [line.strip() for line in Path(path).read_text("utf-8").splitlines()]
        except (OSError, UnicodeError) as exc:
            raise ValueError(f"cannot read {path}: {getattr(exc, 'strerror', None) or 'no text'}") from None
    keys = [key for key in keys if key]
    if not keys:
        raise ValueError("must hold a key that is not empty")
    if any(_CONTROL.search(key) for key in keys):
        raise ValueError("must be a key without line breaks and other control characters")
    return keys


def secret_of(given: Any) -> str:
    """One key that stands in a structure; ``@FILE`` and ``file:PATH`` read it. Raises ValueError."""
    keys = _secrets([given]) if isinstance(given, str) else []
    if len(keys) != 1:
        raise ValueError("must be one key")
    return keys[0]


def _structure(given: Any) -> Any:
    """The lists and mappings of texts that a YAML text stands for; ``@FILE`` and ``file:PATH`` read one."""
    if not isinstance(given, str):
        return given
    path = given.removeprefix("@" if given.startswith("@") else "file:")
    try:
        return in_yaml(given if path == given else Path(path).read_text("utf-8"))
    except OSError as exc:
        raise ValueError(f"cannot read {path}: {exc.strerror}") from None


def in_yaml(text: str, *, secret: bool = False) -> Any:
    """What a YAML text holds, every scalar of it as text: so `off` is no boolean and a key of digits no number.

    ``secret``: nothing of the text may be told. Raises ValueError for what is no YAML, and for a mapping with a key
    twice, of which one would count for nothing.
    """
    try:
        return (_Fast if secret else _Plain)(text).get_single_data()
    except (yaml.YAMLError, UnicodeError, RecursionError) as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f"near line {mark.line + 1}" if mark else "it cannot be read"
        raise ValueError(f"no YAML: {where if secret else ' '.join(str(exc).split())}") from None


class _Unique(yaml.constructor.BaseConstructor):
    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key.value, str) and key.value in seen:
                raise ValueError(f"the same name twice in one mapping: again in line {key.start_mark.line + 1}")
            seen.add(str(key.value))
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


class _Plain(_Unique, yaml.BaseLoader):
    pass


_Fast: Any = type("_Fast", (_Unique, getattr(yaml, "CBaseLoader", yaml.BaseLoader)), {})
"""Seven times as fast, where libyaml is there; for what may be long. The other one's errors say more."""


def _single(f: Field[Any], option: Option, text: str) -> Any:
    if is_choice(f):
        if get_args(f.type) == _SWITCH and text in _WORDS:  # what YAML makes of on and off
            text = "on" if _WORDS[text] else "off"
        if text not in get_args(f.type):
            raise ValueError(f"must be one of {', '.join(get_args(f.type))}")
    elif f.type is bool:
        if text.lower() not in _WORDS:
            raise ValueError("must be true or false")
        return _WORDS[text.lower()]
    elif f.type is Path:
        if not text:
            raise ValueError("must be a directory")
        return Path(text).expanduser()
    elif f.type is not str:
        return _number(int if f.type is int else float, option, text)
    return option.check(text) if option.check else text


def _number(kind: type[int] | type[float], option: Option, text: str) -> float:
    try:
        number = kind(text)
    except ValueError:
        number = float("nan")
    if not option.low <= number <= option.high or number == float("inf"):
        bounds = (
            f"of {option.low:g} or more" if option.high == float("inf") else f"from {option.low:g} to {option.high:g}"
        )
        raise ValueError(f"must be a {'whole number' if kind is int else 'number'} {bounds}")
    return number


def unfixed(f: Field[Any]) -> str:
    """What an option without a fixed default says of that."""
    if f.default is not MISSING:
        return ""
    return f" (default {default_of(f)})"


def written(f: Field[Any]) -> str:
    """The default as YAML, to stand behind its key."""
    if isinstance(f.default, tuple):
        return "".join(f"\n  - {entry}" for entry in f.default)
    if f.default in _SWITCH:
        return f' "{f.default}"'  # bare it would be a boolean
    return "" if f.default in (MISSING, "") else f" {default_of(f)}"
