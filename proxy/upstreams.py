"""The ``upstreams`` option: groups of model servers, and which group serves which models."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from proxy import values
from proxy.options import secret_of

Kind = Literal[
    "auto",
    "vllm",
    "sglang",
    "ollama",
    "llamacpp",
    "openai",
    "azure",
    "deepseek",
    "openrouter",
    "mistral",
    "gemini",
    "generic",
]

_OF_REPLICAS = (
    "api_key",
    "headers",
    "connect_timeout",
    "first_byte_timeout",
    "idle_timeout",
    "max_requests",
    "health_path",
)
_OF_GROUPS = ("name", "models", "aliases", "replicas", "kind", "fallbacks", *_OF_REPLICAS)
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OURS = ("authorization", "api-key", "host", "content-type", "content-length", "transfer-encoding", "connection")
_TEXT = re.compile(r"[\x20-\x7e\xa0-\xff]*")


@dataclass(frozen=True)
class Replica:
    """One model server. ``headers``: added to every request; None: as the option ``upstream_*`` of that name says.

    ``max_requests``: that a worker has open there at most, 0 for no limit; ``health_path``: "" for its models.
    """

    url: str
    api_key: str = field(default="", repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    connect_timeout: float | None = None
    first_byte_timeout: float | None = None
    idle_timeout: float | None = None
    max_requests: int = 0
    health_path: str = ""


@dataclass(frozen=True)
class Fallback:
    """A group that is asked instead. ``model``: its name there, "" for what the group makes of the model asked for."""

    group: str
    model: str = ""


@dataclass(frozen=True)
class Group:
    """Model servers that serve the same models. ``models``: shell patterns; ``aliases``: (asked for, name upstream).

    ``kind``: None as the option ``upstream_kind`` says.
    """

    name: str
    replicas: tuple[Replica, ...]
    models: tuple[str, ...] = ("*",)
    aliases: tuple[tuple[str, str], ...] = ()
    kind: Kind | None = None
    fallbacks: tuple[Fallback, ...] = ()


def groups(given: Any) -> tuple[Group, ...]:
    """The groups that lists and mappings of texts describe. Raises ValueError with where they are wrong, and how."""
    if not isinstance(given, list) or not given:
        raise ValueError("must be a list of groups, as [{replicas: [http://vllm-0:8000/v1, http://vllm-1:8000/v1]}]")
    found = tuple(_group(f"upstreams[{number}]", entry) for number, entry in enumerate(given))
    names = [group.name for group in found]
    fallbacks = {fallback.group for group in found for fallback in group.fallbacks}
    for number, group in enumerate(found):
        if group.name in names[:number]:
            raise ValueError(f"upstreams[{number}].name: there are two groups {group.name!r}; give each a name")
        before = next((earlier.name for earlier in found[:number] if "*" in earlier.models), None)
        if before is not None and group.name not in fallbacks:
            raise ValueError(
                f"upstreams[{number}]: is never asked, as {before!r} before it serves every model and no group has it"
                " among its fallbacks; the first group that matches serves, so put it before that one"
            )
        for place, fallback in enumerate(group.fallbacks):
            if fallback.group not in names or fallback.group == group.name:
                others = ", ".join(name for name in names if name != group.name) or "none"
                raise ValueError(
                    f"upstreams[{number}].fallbacks[{place}]: {fallback.group!r} is no other group; there are {others}"
                )
    return found


def _group(where: str, given: Any) -> Group:
    entry = _mapping(where, given, _OF_GROUPS)
    models = tuple(_texts(f"{where}.models", entry.get("models", ["*"])))
    shared = _shared(where, entry)
    places = entry.get("replicas")
    if not isinstance(places, list) or not places:
        raise ValueError(f"{where}.replicas: must be a list of base URLs up to and including /v1, at least one")
    replicas = tuple(_replica(f"{where}.replicas[{number}]", place, shared) for number, place in enumerate(places))
    urls = [replica.url for replica in replicas]
    if twice := next((url for number, url in enumerate(urls) if url in urls[:number]), None):
        raise ValueError(f"{where}.replicas: {values.redacted(twice)} is there twice")
    aliases = entry.get("aliases", {})
    if not isinstance(aliases, dict):
        raise ValueError(f"{where}.aliases: must map names that clients use to models, as {{gpt-4o: qwen3-32b}}")
    pairs = tuple((alias, _text(f"{where}.aliases.{alias}", model)) for alias, model in aliases.items())
    fallbacks = entry.get("fallbacks", [])
    if not isinstance(fallbacks, list):
        raise ValueError(
            f"{where}.fallbacks: must be a list of groups, as [small] or [{{group: small, model: qwen3-4b}}]"
        )
    return Group(
        name=_text(f"{where}.name", entry.get("name", models[0])),
        replicas=replicas,
        models=models,
        aliases=pairs,
        kind=_kind(f"{where}.kind", entry["kind"]) if "kind" in entry else None,
        fallbacks=tuple(_fallback(f"{where}.fallbacks[{number}]", each) for number, each in enumerate(fallbacks)),
    )


def _replica(where: str, given: Any, shared: dict[str, Any]) -> Replica:
    entry = {"url": given} if isinstance(given, str) else _mapping(where, given, ("url", *_OF_REPLICAS))
    own = _shared(where, entry)
    if "headers" in own:
        names = {name.lower() for name, _ in own["headers"]}
        own["headers"] += tuple(pair for pair in shared.get("headers", ()) if pair[0].lower() not in names)
    url = _text(f"{where}.url", entry.get("url", ""))
    try:
        if url == values.DEMO:
            raise ValueError("must be the base URL up to and including /v1; demo is for the option upstream")
        return Replica(**{**shared, **own, "url": values.upstream(url)})
    except ValueError as exc:
        raise ValueError(f"{where}={values.redacted(url)!r}: {exc}") from None


def _shared(where: str, entry: dict[str, Any]) -> dict[str, Any]:
    """What may stand at a group and at a replica."""
    return {key: _READ[key](f"{where}.{key}", entry[key]) for key in _OF_REPLICAS if key in entry}


def _mapping(where: str, given: Any, keys: Collection[str]) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise ValueError(f"{where}: must be a mapping with the keys {', '.join(keys)}")
    for key in given:
        if key not in keys:
            near = difflib.get_close_matches(str(key).replace("-", "_"), keys, 1)
            meant = f"is {near[0]} meant?" if near else f"there are {', '.join(keys)}"
            raise ValueError(f"{where}: no such key: {key}; {meant}")
    return {key: value for key, value in given.items() if value not in ("", "~", "null")}


def _text(where: str, given: Any) -> str:
    if not isinstance(given, str) or not given:
        raise ValueError(f"{where}: must be a text that is not empty")
    return given


def _texts(where: str, given: Any) -> list[str]:
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, list) or not given:
        raise ValueError(f"{where}: must be a list of shell patterns, as [qwen3*, llama-?]")
    return [_text(f"{where}[{number}]", each) for number, each in enumerate(given)]


def _kind(where: str, given: Any) -> Any:
    if given not in get_args(Kind):
        raise ValueError(f"{where}={given!r}: must be one of {', '.join(get_args(Kind))}")
    return given


def _fallback(where: str, given: Any) -> Fallback:
    if isinstance(given, str):
        return Fallback(given)
    entry = _mapping(where, given, ("group", "model"))
    group = _text(f"{where}.group", entry.get("group"))
    return Fallback(group, _text(f"{where}.model", entry["model"]) if "model" in entry else "")


def _seconds(where: str, given: Any) -> float:
    try:
        seconds = float(given)
    except (TypeError, ValueError):
        seconds = float("nan")
    if not 0.001 <= seconds < float("inf"):
        raise ValueError(f"{where}={given!r}: must be a number of seconds of 0.001 or more")
    return seconds


def _count(where: str, given: Any) -> int:
    if not isinstance(given, str) or not given.isdecimal():
        raise ValueError(f"{where}={given!r}: must be a whole number of 0 or more")
    return int(given)


def _key(where: str, given: Any) -> str:
    try:
        return secret_of(given)
    except ValueError as exc:
        raise ValueError(f"{where}: {exc}") from None


def _headers(where: str, given: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(given, dict):
        raise ValueError(f"{where}: must map names of headers to values, as {{x-team: a}}")
    for name, value in given.items():
        if not _HEADER.fullmatch(str(name)):
            raise ValueError(f"{where}: {name!r} is no name of a header")
        if name.lower() in _OURS:
            raise ValueError(
                f"{where}.{name}: cannot be set here{'; give api_key' if name.lower() in _OURS[:2] else ''}"
            )
        if not isinstance(value, str) or not _TEXT.fullmatch(value):
            raise ValueError(f"{where}.{name}: must be one line of Latin-1 text")
    return tuple(given.items())


def _path(where: str, given: Any) -> str:
    if not isinstance(given, str) or not re.fullmatch(r"/[!-~]*", given):
        raise ValueError(f"{where}={given!r}: must be a path at the server's root, as /health or /v1/models")
    return given


_READ = {
    "api_key": _key,
    "headers": _headers,
    "connect_timeout": _seconds,
    "first_byte_timeout": _seconds,
    "idle_timeout": _seconds,
    "max_requests": _count,
    "health_path": _path,
}
