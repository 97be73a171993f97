"""Which model a body names that is passed on, and the same body with another name for it."""

from __future__ import annotations

import re
from itertools import chain, count, islice
from typing import Any

from proxy import codec

_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"]+)"|([^\s;"]+))', re.IGNORECASE)
_FIELD = re.compile(rb'(?im)^content-disposition:[^\r\n]*?;\s*name="?model"?\s*(?:;|$|\r)')
_CHARSET = re.compile(r'charset="?(?:utf-?8|us-ascii)"?(?=\s*(?:[;,]|$))')
_DISPOSITION = re.compile(rb'(?i)content-disposition: ?form-data; ?name="([^"\\]*)"(; ?filename\*?=.+)?')
_FILE = re.compile(rb"(?im)^content-disposition:[^\r\n]*?;\s*filename")

_OTHERS = ("models", "fallbacks")
"""Where OpenRouter and LiteLLM let a request name those that answer instead of its model."""

_FOLDED = {"k": "\u212a", "s": "\u017f"}
"""Letters beside the capitals that some take for these."""


def _spelled(name: str) -> str:
    """A pattern of all ways to write a name in a JSON text, with ``(?i)``."""
    letters = [letter + _FOLDED.get(letter, "") for letter in name]
    return "".join(f"(?:{'|'.join(map(_ways, one + one[0].upper()))})" for one in letters)


def _ways(letter: str) -> str:
    return rf"{letter}|\\u{ord(letter):04x}"


_KEY = re.compile(
    # no key begins behind a backslash; what follows a quote is looked at first, 8 MB take 2 to 40 ms so and not 300
    rf'(?i)"(?=[mf\\])(?<!\\")(?:{_spelled("model")}{_spelled("s")}?|{_spelled("fallbacks")})"(?=[ \t\r\n]*:)'.encode()
)
"""A key of valid JSON, at any depth, that may name models."""
_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)


def in_object(body: bytes) -> dict[str, Any]:
    """What a body holds that is a JSON object, of equal keys the last, as parsers do; nothing of any other."""
    try:
        value = codec.loads(body)
    except ValueError:
        return {}
    # in UTF-8 no JSON holds a zero byte, in UTF-16 and UTF-32, which the standard library reads too, all does
    return value if isinstance(value, dict) and b"\0" not in body else {}


def in_json(value: dict[str, Any]) -> str | None:
    """The ``model`` of what ``in_object`` gave. None where there is none that is a text."""
    model = value.get("model")
    return model if isinstance(model, str) else None


def renamed(body: bytes, model: str) -> bytes:
    """A body that ``in_json`` finds a model in, with another in its place; every other byte as it came."""
    start, end = _place(body)
    return body[:start] + codec.dumps(model) + body[end:]


def _place(body: bytes) -> tuple[int, int]:
    """Where the model's string stands in valid JSON that has one."""
    keys, last = _KEY.findall(body), 0
    if len(keys) > 1:
        own = _own(body, codec.loads(body))
        last = max(number for number in own if codec.loads(keys[number]) == "model")
    key = next(islice(_KEY.finditer(body), last, None))
    text = _TEXT.search(body, key.end())
    assert text is not None, "the model is a text"
    return text.span()


def _own(body: bytes, value: dict[str, Any]) -> dict[int, Any]:
    """What each ``_KEY`` of a body stands for that is the object's own, by its number among all. ``value``: the object.

    Each gets a name that nothing else has, and a parser says which of them it finds: of 8 MB that
    takes a second of CPU at worst, and to go through their text here three.
    """
    taken = {name.partition(".")[0] for name in value}
    mark = next(number for number in count() if f"\0{number}" not in taken)
    texts = _KEY.split(body)
    names = [b'"\\u0000%d.%d"' % (mark, number) for number in range(len(texts) - 1)]
    marked = codec.loads(b"".join(chain.from_iterable(zip(texts, [*names, b""], strict=True))))
    begin = f"\0{mark}."
    return {int(name[len(begin) :]): known for name, known in marked.items() if name.startswith(begin)}


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


def every_model(content_type: str, body: bytes, coding: str = "", value: dict[str, Any] | None = None) -> list[str]:
    """Every model that any server may take a body to name; none for a body that two of them may read differently.

    For what must not be passed by: servers differ in which of two equal keys counts, in the case of letters, in the
    encodings that they guess or take from the content type, and in whether they mind that or what stands around a
    value. ``coding``: the body's content coding, which some undo and others do not. ``value``: what ``in_object`` made
    of the body, where it was asked: to parse a long one takes long.
    """
    if "charset" in _CHARSET.sub("", content_type.lower()) or coding.strip().lower() not in ("", "identity"):
        return []
    if "multipart/" in content_type.lower():
        return _fields(content_type, body)
    if "urlencoded" in content_type.lower() or not _is_utf_8(body):
        return []
    pairs = _naming(body, in_object(body) if value is None else value)
    models = [model for name, model in pairs if name.casefold() == "model"]
    for name, others in pairs:
        if models and name.casefold() in _OTHERS:
            models += others if isinstance(others, list) else [others]
    return models if all(isinstance(model, str) for model in models) else []


def _naming(body: bytes, value: dict[str, Any]) -> list[tuple[str, Any]]:
    """The pairs of an object that may name models, equal keys too."""
    pairs = [pair for pair in value.items() if pair[0].casefold() in ("model", *_OTHERS)]
    keys = _KEY.findall(body) if pairs else []
    if len(keys) == len(pairs):
        return pairs
    return [(codec.loads(keys[number]), known) for number, known in _own(body, value).items()]


def _is_utf_8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


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
