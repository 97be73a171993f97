"""What the key file says: whose keys there are, and what tenants may use. YAML or JSON."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Any

from proxy.grants import SCOPES, Grant, Quota
from proxy.options import in_yaml
from proxy.principals import Principal

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_FIELDS = ("key", "sha256", "name", "tenant", "principal", "attributes", "scope", "models", "expires")
_LIMITS = tuple(f.name for f in fields(Quota))


@dataclass(frozen=True, slots=True)
class Entry:
    """A key, without itself. ``tenant``: "" where the key does not say it; ``expires``: Unix seconds."""

    name: str = ""
    tenant: str = ""
    principal: Principal | None = None
    grant: Grant = field(default_factory=Grant)
    expires: float = inf


@dataclass(frozen=True, slots=True)
class KeyTable:
    """``entries``: by their keys' ``digest``. ``limits``: of tenants by name, those that are given.

    ``files``: those that single keys were read from.
    """

    entries: Mapping[bytes, Entry] = field(default_factory=dict, repr=False)
    limits: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    files: tuple[Path, ...] = ()


def digest(key: str) -> bytes:
    """What keys are found by: how long that takes says nothing of any of them."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def parse(text: str) -> KeyTable:
    """The key file's text. Raises ValueError with where and what is right, and nothing of a key."""
    content = _mapping(in_yaml(text, secret=True), "the file", ("keys", "tenants"))
    entries: dict[bytes, Entry] = {}
    files: list[Path] = []
    for at, given in enumerate(_list(content.get("keys", []), "keys")):
        where = f"keys[{at}]"
        one = _mapping(given, where, _FIELDS)
        found, path = _digest_of(one, where)
        if found in entries:
            raise ValueError(f"{where}: the same key is there twice")
        entries[found] = _entry(one, where)
        files += [path] if path else []
    tenants = content.get("tenants", {})
    if not isinstance(tenants, dict):
        raise ValueError("tenants: must be a mapping of tenants' names to their limits")
    limits = {name: _limits(given, f"tenants.{name}") for name, given in tenants.items()}
    return KeyTable(entries, limits, tuple(files))


def _entry(one: Mapping[str, Any], where: str) -> Entry:
    principal = _text(one, "principal", where)
    attributes = one.get("attributes", {})
    if not isinstance(attributes, dict):
        raise ValueError(f"{where}.attributes: must be a mapping of names to texts or lists of texts")
    if attributes and not principal:
        raise ValueError(f"{where}.attributes: are those of a principal: name it")
    texts = {name: tuple(_texts(value, f"{where}.attributes.{name}")) for name, value in attributes.items()}
    scopes = [
        word for text in _texts(one.get("scope", []), f"{where}.scope") for word in re.split(r"[\s,]+", text) if word
    ]
    for scope in scopes:
        if scope not in SCOPES:
            raise ValueError(f"{where}.scope: {scope!r} must be one of {', '.join(SCOPES)}")
    models = tuple(_texts(one.get("models", []), f"{where}.models"))
    for name, given in (("scope", scopes), ("models", models)):
        if name in one and not given:
            raise ValueError(f"{where}.{name}: must not be empty; leave it out to allow everything")
    return Entry(
        _text(one, "name", where),
        _text(one, "tenant", where),
        Principal(principal, texts) if principal else None,
        Grant(frozenset(scopes) if scopes else None, models),
        _expiry(_text(one, "expires", where), f"{where}.expires"),
    )


def _digest_of(one: Mapping[str, Any], where: str) -> tuple[bytes, Path | None]:
    """The digest of an entry's key, and the file that holds it, if any."""
    if ("key" in one) == ("sha256" in one):
        raise ValueError(f"{where}: must have either key or sha256")
    if "sha256" in one:
        text = _text(one, "sha256", where)
        if not _SHA256.fullmatch(text):
            raise ValueError(f"{where}.sha256: must be 64 hex digits, as printf %s KEY | sha256sum gives")
        return bytes.fromhex(text), None
    key, path = _text(one, "key", where).strip(), None
    if key.startswith("@"):
        path = Path(key[1:])
        try:
            key = path.read_text("utf-8").strip()
        except (OSError, UnicodeError) as exc:
            raise ValueError(
                f"{where}.key: cannot read {path}: {getattr(exc, 'strerror', None) or 'no text'}"
            ) from None
    if not key or _CONTROL.search(key):
        raise ValueError(f"{where}.key: must be one key that is not empty, without control characters")
    return digest(key), path


def _expiry(text: str, where: str) -> float:
    if not text:
        return inf
    try:
        if text.isdecimal():
            return float(text)
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"{where}: must be a time as 2030-01-31, 2030-01-31T12:00:00Z or Unix seconds") from None


def _limits(given: Any, where: str) -> dict[str, int]:
    limits = _mapping(_mapping(given, where, ("limits",)).get("limits", {}), f"{where}.limits", _LIMITS)
    for name, text in limits.items():
        if not isinstance(text, str) or not re.fullmatch(r"[0-9]{1,18}", text):
            raise ValueError(f"{where}.limits.{name}: must be a whole number of 0 or more; 0 is no limit")
    return {name: int(text) for name, text in limits.items()}


def _mapping(given: Any, where: str, names: Iterable[str]) -> Mapping[str, Any]:
    """A mapping with none but these keys, those without a value left out. An unknown key is not told: it may be one."""
    names = tuple(names)
    if not isinstance(given, dict):
        raise ValueError(f"{where}: must be a mapping of {', '.join(names)}")
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(str(name), names, 1)
            raise ValueError(
                f"{where}: must have none but {', '.join(names)}{f'; is {near[0]} meant?' if near else ''}"
            )
    return {name: value for name, value in given.items() if value not in ("", "~", "null")}


def _list(given: Any, where: str) -> list[Any]:
    if not isinstance(given, list):
        raise ValueError(f"{where}: must be a list")
    return given


def _text(one: Mapping[str, Any], name: str, where: str) -> str:
    text = one.get(name, "")
    if not isinstance(text, str):
        raise ValueError(f"{where}.{name}: must be one text")
    return text


def _texts(given: Any, where: str) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise ValueError(f"{where}: must be a text or a list of texts")
    return texts
