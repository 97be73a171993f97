"""Which model a body names that is passed on, and the same body with another name for it."""

from __future__ import annotations

import json
import re
from typing import Any

from proxy import codec

_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}\[\]:,]', re.DOTALL)
_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"]+)"|([^\s;"]+))', re.IGNORECASE)
_FIELD = re.compile(rb'(?im)^content-disposition:[^\r\n]*?;\s*name="?model"?\s*(?:;|$|\r)')
_CHARSET = re.compile(r'charset="?(?:utf-?8|us-ascii)"?(?=\s*(?:[;,]|$))')
_DISPOSITION = re.compile(rb'(?i)content-disposition: ?form-data; ?name="([^"\\]*)"(; ?filename\*?=.+)?')
_FILE = re.compile(rb"(?im)^content-disposition:[^\r\n]*?;\s*filename")

_OTHERS = ("models", "fallbacks")
"""Where OpenRouter and LiteLLM let a request name those that answer instead of its model."""


def in_json(body: bytes) -> str | None:
    """The ``model`` of a JSON object; of several the last, as parsers do. None where there is none that is a text."""
    try:
        value = codec.loads(body)
    except ValueError:
        return None
    model = value.get("model") if isinstance(value, dict) else None
    return model if isinstance(model, str) else None


def renamed(body: bytes, model: str) -> bytes:
    """A body that ``in_json`` finds a model in, with another in its place; every other byte as it came."""
    start, end = _place(body)
    return body[:start] + codec.dumps(model) + body[end:]


def _place(body: bytes) -> tuple[int, int]:
    """Where the model's string stands in valid JSON that has one; in any other a string without end would take long."""
    place, depth, key, is_value = (0, 0), 0, None, False
    for token in _TOKEN.finditer(body):
        text = token[0]
        if text in (b"{", b"["):
            depth += 1
        elif text in (b"}", b"]"):
            depth -= 1
        elif depth != 1:
            continue
        elif text in (b":", b","):
            is_value = text == b":"
        elif not is_value:
            key = codec.loads(text)
        elif key == "model":
            place = token.span()
    return place


def in_form(content_type: str, body: bytes) -> list[str]:
    """Every ``model`` of a multipart form whose field is there whole, in order; of no form none."""
    given = _BOUNDARY.search(content_type)
    if not given or not content_type.lower().lstrip().startswith("multipart/form-data"):
        return []
    mark = b"\r\n--" + (given[1] or given[2]).encode("latin-1", "replace")
    *whole, _cut = (b"\r\n" + body).split(mark)
    found = []
    for part in whole[1:]:
        head, _, value = part.partition(b"\r\n\r\n")
        if _FIELD.search(head) and not _FILE.search(head):
            found.append(value.decode(errors="replace"))
    return found


def every_model(content_type: str, body: bytes, coding: str = "") -> list[str]:
    """Every model that any server may take a body to name; none for a body that two of them may read differently.

    For what must not be passed by: servers differ in which of two equal keys counts, in the case of letters, in the
    encodings that they guess or take from the content type, and in whether they mind that or what stands around a
    value. ``coding``: the body's content coding, which some undo and others do not.
    """
    if "charset" in _CHARSET.sub("", content_type.lower()) or coding.strip().lower() not in ("", "identity"):
        return []
    if "multipart/" in content_type.lower():
        return _fields(content_type, body)
    try:
        value = json.loads(body.decode(), object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        return []
    if not isinstance(value, _Pairs) or "urlencoded" in content_type.lower():
        return []
    models = [model for name, model in value if name.lower() == "model"]
    for name, others in value:
        if models and name.lower() in _OTHERS:
            models += others if isinstance(others, list) else [others]
    return models if all(isinstance(model, str) for model in models) else []


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with all its keys, equal ones too."""


def _fields(content_type: str, body: bytes) -> list[str]:
    """The ``model`` fields of a form that is written as clients write it; none of any other."""
    given = _BOUNDARY.findall(content_type)
    if len(given) != 1 or content_type.lower().count("boundary") != 1:
        return []
    first, *parts = (b"\r\n" + body).split(b"\r\n--" + "".join(given[0]).encode("latin-1", "replace"))
    if first or not parts or parts.pop() not in (b"--", b"--\r\n"):
        return []
    models = []
    for part in parts:
        head, _, value = part.partition(b"\r\n\r\n")
        begun, *lines = head.split(b"\r\n")
        fields = [line for line in lines if line.lower().startswith(b"content-disposition")]
        field = _DISPOSITION.fullmatch(fields[0]) if len(fields) == 1 else None
        if (
            begun
            or not field
            or any(line[:1] in (b" ", b"\t", b"") or b"\n" in line or b"\r" in line for line in lines)
        ):
            return []
        if field[1].lower() == b"model":
            models.append("" if field[2] else value.decode(errors="replace"))
    return models
