"""The lines of an export: what stands in them, and whether a line that comes from outside holds that and nothing else.

The first line is a header, then there is one for each lineage and idempotency key, and the last one says how many there
were. Times of expiry are milliseconds since the epoch, null for never. See docs/operations/data.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from typing import Any

from proxy import codec, ids
from proxy.state.keys import CONVERSATION_LOG

VERSION = 1
"""The number of this form, in its header."""

HEADER = "statecar-export"
"""The type of a header."""

Line = dict[str, Any]
"""A line, read and found right."""

_TAG, _TURN, _HASH, _SECRET = (re.compile(rf"[0-9a-f]{{{count}}}\Z") for count in (16, 28, 32, 64))
_TENANT = re.compile(r"[0-9a-f]{32}\Z|shared\Z")
_GONE = re.compile(r"(\d+(-\d+)?(,\d+(-\d+)?)*)?\Z")
_STATUSES = ("completed", "incomplete", "failed", "cancelled")
_MOST = 1 << 53
"""Whole numbers above it are not exact in scripts."""


def is_tenant(text: str) -> bool:
    """Whether tenants are called so in the store."""
    return _TENANT.match(text) is not None


def write(line: Line) -> bytes:
    """A line with its end. Raises ValueError for what is nested too deeply."""
    return codec.dumps(line) + b"\n"


def read(data: bytes) -> Line:
    """A line. Raises ValueError, which says what is wrong with it."""
    try:
        line = codec.loads(data)
    except ValueError as exc:
        cut = "" if data.endswith(b"\n") else ", and it ends in the middle"
        raise ValueError(f"no JSON{cut}: {exc}") from None
    _is(isinstance(line, dict), "a line", "a JSON object")
    kind = line.get("type")
    checks: dict[object, Callable[[Line], Line]] = {HEADER: _header, "lineage": _lineage, "key": _key, "end": _end}
    _is(isinstance(kind, str) and kind in checks, "type", f"one of {', '.join(map(str, checks))}")
    return checks[kind](line)


def _header(line: Line) -> Line:
    if line.get("version") != VERSION:
        raise ValueError(f"version: is {line.get('version')!r}, and this statecar reads {VERSION}")
    _fields(line, "the header", {"type", "version", "tenant", "exported_at", "fingerprint"}, {"secret"})
    _text(line["tenant"], "tenant", _TENANT)
    _text(line["fingerprint"], "fingerprint", _HASH)
    _number(line["exported_at"], "exported_at")
    if "secret" in line:
        _text(line["secret"], "secret", _SECRET)
    return line


def _end(line: Line) -> Line:
    _fields(line, "the last line", {"type", "lineages", "responses", "conversations", "keys"})
    for name in ("lineages", "responses", "conversations", "keys"):
        _number(line[name], name)
    return line


def _key(line: Line) -> Line:
    _fields(line, "a key", {"type", "key", "body", "response", "expires_at"})
    _text(line["key"], "key", _HASH)
    _text(line["body"], "body", _HASH)
    _is(bool(ids.of_kind(line["response"], "resp")), "response", "the id of a response")
    _expiry(line["expires_at"], "expires_at")
    return line


def _lineage(line: Line) -> Line:
    needed = {"type", "tag", "logs", "links_expire_at", "texts", "texts_expire_at", "conversation", "responses"}
    _fields(line, "a lineage", needed)
    _text(line["tag"], "tag", _TAG)
    for name in ("links_expire_at", "texts_expire_at"):
        _expiry(line[name], name)
    _is(isinstance(line["texts"], list), "texts", "a list")
    logs = _logs(line["logs"])
    _responses(line, logs)
    if line["conversation"] is not None:
        _conversation(line["conversation"], line["tag"], logs.get(CONVERSATION_LOG))
    return line


def _logs(logs: Any) -> dict[str, Line]:
    """The logs by their names."""
    found: dict[str, Line] = {}
    for where, log in _each(logs, "logs"):
        _fields(log, where, {"name", "items", "expires_at"}, {"parent", "floor"})
        if log["name"] != CONVERSATION_LOG:
            _text(log["name"], f"{where}.name", _TURN)
        _is(log["name"] not in found, f"{where}.name", "another than those before it")
        _is(isinstance(log["items"], list), f"{where}.items", "a list")
        for n, item in enumerate(log["items"]):
            right = item is None or (isinstance(item, dict) and isinstance(item.get("id"), str))
            _is(right, f"{where}.items[{n}]", "an item with an id, or null for one that was deleted")
        _expiry(log["expires_at"], f"{where}.expires_at")
        _number(log.get("floor", 0), f"{where}.floor")
        found[log["name"]] = log
    for log in found.values():
        if "parent" in log:
            _parent(log, found)
    for log in found.values():
        _rooted(log, found)
    return found


def _parent(log: Line, logs: dict[str, Line]) -> None:
    where, parent = f"parent of log {log['name']}", log["parent"]
    _is(isinstance(parent, dict), where, "an object")
    _fields(parent, where, {"log", "length", "gone"})
    _is(isinstance(parent["log"], str) and parent["log"] in logs, f"{where}: log", "the name of a log in this line")
    _number(parent["length"], f"{where}: length", len(logs[parent["log"]]["items"]))
    _positions(parent["gone"], f"{where}: gone")


def _rooted(log: Line, logs: dict[str, Line]) -> None:
    """Scripts follow parents to the first of them: they must not go round."""
    passed = set[str]()
    while "parent" in log:
        passed.add(log["name"])
        log = logs[log["parent"]["log"]]
        _is(log["name"] not in passed, f"log {log['name']}", "none of those that it branched from")


def _responses(line: Line, logs: dict[str, Line]) -> None:
    needed = {"id", "log", "start", "split", "end", "gone", "status", "model", "created_at", "conversation", "body"}
    needed |= {"texts", "owner", "logged", "listed_at", "expires_at"}
    seen = set[str]()
    for where, one in _each(line["responses"], "responses"):
        _fields(one, where, needed, {"events"})
        minted = ids.of_kind(one["id"], "resp")
        _is(minted is not None and minted.tag == line["tag"], f"{where}.id", "the id of a response of this lineage")
        _is(one["id"] not in seen, f"{where}.id", "another than those before it")
        seen.add(one["id"])
        _is(isinstance(one["log"], str) and one["log"] in logs, f"{where}.log", "the name of a log in this line")
        at, length = 0, len(logs[one["log"]]["items"])
        for name in ("start", "split", "end"):
            _number(one[name], f"{where}.{name}", length)
            _is(one[name] >= at, f"{where}.{name}", f"{at} or more")
            at = one[name]
        _positions(one["gone"], f"{where}.gone")
        _is(one["status"] in _STATUSES, f"{where}.status", f"one of {', '.join(_STATUSES)}")
        _is(isinstance(one["model"], str), f"{where}.model", "a text")
        for name in ("created_at", "listed_at"):
            _number(one[name], f"{where}.{name}")
        _of_lineage(one["conversation"], line["tag"], f"{where}.conversation")
        _body(one, where, line["texts"])
        _owner(one["owner"], f"{where}.owner")
        _is(isinstance(one["logged"], bool), f"{where}.logged", "true or false")
        _expiry(one["expires_at"], f"{where}.expires_at")
        if "events" in one:
            _events(one["events"], f"{where}.events")


def _body(one: Line, where: str, texts: Collection[Any]) -> None:
    _is(isinstance(one["body"], dict), f"{where}.body", "an object")
    _is(isinstance(one["texts"], dict), f"{where}.texts", "an object")
    for name, at in one["texts"].items():
        _number(at, f"{where}.texts.{name}", len(texts) - 1)


def _events(events: Any, where: str) -> None:
    _is(isinstance(events, dict), where, "an object")
    _fields(events, where, {"frames", "expires_at"})
    frames = events["frames"]
    _is(isinstance(frames, list) and all(isinstance(frame, str) for frame in frames), f"{where}.frames", "texts")
    _expiry(events["expires_at"], f"{where}.expires_at")


def _conversation(one: Any, tag: str, log: Line | None) -> None:
    where = "conversation"
    _is(isinstance(one, dict), where, "an object or null")
    _fields(one, where, {"id", "created_at", "metadata", "owner", "items", "expires_at"})
    _is(one["id"] is not None, f"{where}.id", "an id")
    _of_lineage(one["id"], tag, f"{where}.id")
    _number(one["created_at"], f"{where}.created_at")
    _is(isinstance(one["metadata"], dict), f"{where}.metadata", "an object")
    _owner(one["owner"], f"{where}.owner")
    _expiry(one["expires_at"], f"{where}.expires_at")
    items = log["items"] if log else []
    _is(isinstance(one["items"], list), f"{where}.items", "a list of positions in the log")
    named = set[str]()
    for n, at in enumerate(one["items"]):
        _number(at, f"{where}.items[{n}]", len(items) - 1)
        item = items[at]
        _is(item is not None and item["id"] not in named, f"{where}.items[{n}]", "where an item lies, each once")
        named.add(item["id"])


def _each(values: Any, where: str) -> Iterable[tuple[str, Line]]:
    _is(isinstance(values, list), where, "a list")
    for n, value in enumerate(values):
        _is(isinstance(value, dict), f"{where}[{n}]", "an object")
        yield f"{where}[{n}]", value


def _fields(value: Line, where: str, needed: set[str], optional: Collection[str] = ()) -> None:
    if missing := sorted(needed - value.keys()):
        raise ValueError(f"{where}: lacks {', '.join(missing)}")
    if unknown := sorted(value.keys() - needed - set(optional)):
        raise ValueError(f"{where}: has {', '.join(unknown)}, which this statecar does not know")


def _of_lineage(id_: Any, tag: str, where: str) -> None:
    minted = ids.of_kind(id_, "conv")
    _is(id_ is None or (minted is not None and minted.tag == tag), where, "the id of a conversation of this lineage")


def _owner(owner: Any, where: str) -> None:
    """``[name, {attribute: [value, ...]}]`` or null."""
    right = owner is None or (
        isinstance(owner, list)
        and len(owner) == 2
        and isinstance(owner[0], str)
        and isinstance(owner[1], dict)
        and all(isinstance(values, list) for values in owner[1].values())
        and all(isinstance(value, str) for values in owner[1].values() for value in values)
    )
    _is(right, where, "[name, {attribute: [value, ...]}] or null")


def _positions(text: Any, where: str) -> None:
    _is(isinstance(text, str) and _GONE.match(text) is not None, where, "positions as in 3,5-7")
    ends = [int(part) for part in re.findall(r"\d+", text)]
    _is(ends == sorted(ends), where, "positions that ascend")


def _expiry(value: Any, where: str) -> None:
    if value is not None:
        _number(value, where)


def _number(value: Any, where: str, most: int = _MOST) -> None:
    right = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most
    _is(right, where, "a whole number" if most == _MOST else f"a whole number from 0 to {most}")


def _text(value: Any, where: str, form: re.Pattern[str]) -> None:
    _is(isinstance(value, str) and form.match(value) is not None, where, f"a text of the form {form.pattern[:-2]}")


def _is(right: bool, where: str, what: str) -> None:
    if not right:
        raise ValueError(f"{where}: must be {what}")
