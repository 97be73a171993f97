"""MCP servers and the items about them as clients may write them (wire §6.2, §6.6).

What an error message says never repeats what may be a secret: a token, a header, a URL.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from proxy.errors import InvalidRequest
from proxy.wire import check

_LABEL = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e]*")
_TOKEN = re.compile(r"[\x20-\x7e]+")
_SPACES = re.compile(r"[\x00-\x20\x7f\\]")
_OURS = re.compile(
    r"host|content-.*|transfer-encoding|connection|keep-alive|upgrade|te|trailer|expect|proxy-.*|accept|accept-encoding"
    r"|mcp-.*|last-event-id",
    re.IGNORECASE,
)
"""Headers that the protocol needs for itself."""


def server(tool: dict[str, Any], at: str) -> dict[str, Any]:
    """An mcp tool, its nulls gone. Raises for one without a label, or without just one address."""
    label = check.required(tool.get("server_label"), f"{at}.server_label")
    if not _LABEL.fullmatch(label):
        raise check.wrong_form(f"{at}.server_label", label, "1 to 64 letters, digits and any of '_', '-'")
    if "tunnel_id" in tool:
        raise check.unsupported(f"{at}.tunnel_id", "Tunnels are not supported by this server, only 'server_url' is.")
    addresses = [key for key in ("server_url", "connector_id") if key in tool]
    if len(addresses) != 1:
        raise InvalidRequest(
            f"Invalid '{at}': expected just one of 'server_url' and 'connector_id', but got"
            f" {'both' if addresses else 'neither'}.",
            param=at,
            code="invalid_value" if addresses else "missing_required_parameter",
        )
    return check.fields(tool, at, _SERVER)


def approval_request(item: dict[str, Any], at: str) -> dict[str, Any]:
    """A call that a client was asked about, as it was told of it."""
    label, name = (check.required(item.get(key), f"{at}.{key}") for key in ("server_label", "name"))
    if item.get("arguments") is None:
        raise check.missing(f"{at}.arguments")
    return {"server_label": label, "name": name, "arguments": check.string(item["arguments"], f"{at}.arguments")}


def approval_response(item: dict[str, Any], at: str) -> dict[str, Any]:
    """The client's answer."""
    id_ = check.required(item.get("approval_request_id"), f"{at}.approval_request_id")
    if item.get("approve") is None:
        raise check.missing(f"{at}.approve")
    made = {"approval_request_id": id_, "approve": check.boolean(item["approve"], f"{at}.approve")}
    if item.get("reason") is not None:
        made["reason"] = check.string(item["reason"], f"{at}.reason")
    return made


def listing(item: dict[str, Any], at: str) -> dict[str, Any]:
    """What a server offers, as a response told it."""
    label = check.required(item.get("server_label"), f"{at}.server_label")
    if item.get("tools") is None:
        raise check.missing(f"{at}.tools")
    tools = [_listed(tool, f"{at}.tools[{i}]") for i, tool in enumerate(check.array(item["tools"], f"{at}.tools"))]
    return {"server_label": label, "tools": tools}


def _listed(value: Any, at: str) -> dict[str, Any]:
    tool = check.without_nulls(value, at)
    check.required(tool.get("name"), f"{at}.name")
    return check.fields(tool, at, _LISTED)


def _url(value: Any, at: str) -> str:
    url = check.required(value, at)
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits or _SPACES.search(url):
        raise _invalid(at, "expected an absolute http or https URL")
    if parts.username is not None or parts.password is not None:
        raise _invalid(at, "a URL must not hold a name or password; send 'authorization' or 'headers'")
    return url


def _token(value: Any, at: str) -> str:
    if not _TOKEN.fullmatch(check.required(value, at)):
        raise _invalid(at, "expected printable ASCII characters")
    return str(value)


def _headers(value: Any, at: str) -> dict[str, str]:
    headers = check.mapping(value, at)
    for name, text in headers.items():
        if not _HEADER.fullmatch(name):
            raise check.wrong_form(at, name, "the name of a header")
        if _OURS.fullmatch(name):
            raise _invalid(f"{at}.{name}", "this header cannot be set by a request")
        if not _VALUE.fullmatch(check.string(text, f"{at}.{name}")):
            raise _invalid(f"{at}.{name}", "expected printable ASCII characters")
    return headers


def _filter(value: Any, at: str) -> dict[str, Any]:
    given = check.without_nulls(value, at)
    if unknown := sorted(given.keys() - _FILTER.keys()):
        raise _invalid(at, f"unknown key '{unknown[0][:64]}'; 'tool_names' and 'read_only' are known")
    return check.fields(given, at, _FILTER)


def _allowed(value: Any, at: str) -> list[str] | dict[str, Any]:
    if isinstance(value, list):
        return check.strings(value, at)
    if not isinstance(value, dict):
        raise check.wrong_type(at, "one of an array of strings or object", value)
    return _filter(value, at)


def _approval(value: Any, at: str) -> str | dict[str, Any]:
    if isinstance(value, str):
        return check.one_of("always", "never")(value, at)
    if not isinstance(value, dict):
        raise check.wrong_type(at, "one of a string or object", value)
    given = check.without_nulls(value, at)
    if unknown := sorted(given.keys() - _APPROVAL.keys()):
        raise _invalid(at, f"unknown key '{unknown[0][:64]}'; 'always' and 'never' are known")
    return check.fields(given, at, _APPROVAL)


def _invalid(at: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid '{at}': {why}.", param=at, code="invalid_value")


_LISTED: dict[str, check.Check] = {
    "description": check.string,
    "input_schema": check.mapping,
    "annotations": check.mapping,
}
_FILTER: dict[str, check.Check] = {"tool_names": check.strings, "read_only": check.boolean}
_APPROVAL: dict[str, check.Check] = {"always": _filter, "never": _filter}
_SERVER: dict[str, check.Check] = {
    "server_url": _url,
    "connector_id": check.required,
    "authorization": _token,
    "headers": _headers,
    "allowed_tools": _allowed,
    "require_approval": _approval,
    "server_description": check.string,
}
