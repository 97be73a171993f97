"""Results in the answers of MCP tools: in their JSON, in JSON that they give as text, or in text with URLs in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from proxy import codec
from proxy.hosted.search import Found, plain

_LISTS = ("results", "result", "data", "items", "web", "organic", "documents", "chunks", "hits", "matches", "sources")
_URL = ("url", "link", "href", "source_url", "uri")
_TITLE = ("title", "name")
_TEXT = ("content", "text", "snippet", "description", "page_content", "chunk", "summary", "body", "raw_content")
_FILE_ID = ("file_id", "fileId", "document_id", "doc_id", "id", "uri", "path", "source")
_FILENAME = ("filename", "file_name", "fileName", "name", "title", "path", "source")
_SCORE = ("score", "similarity", "relevance", "relevance_score")

_GAP = re.compile(r"\n(?:[ \t]*(?:[-=*_]{3,}[ \t]*)?\n)+")
_LINK = re.compile(
    r"\[([^\[\]\n]{1,300})\]\((https?://[^\s<>()]{1,2000}(?:\([^\s<>()]*\)[^\s<>()]*)*)(?:\s[^()\n]{0,300})?\)"
)
_BARE = re.compile(r"https?://[^\s<>\"`|\\^\]]+")
_LEAD = re.compile(r"[\s\-*#>•]*(?:\[?\d{1,3}[.)\]:]\s+)?")
_LABEL = re.compile(
    r"\**(?:title|name|url|link|source|description|content|snippet|summary|text|highlights?)\**\s*:\s*\**", re.I
)
_SPACE = re.compile(r"\s*")
_LONGEST_TITLE = 200
_MOST_TEXT = 512 * 1024
"""Characters of an answer that are looked through; of JSON texts one behind the other at most ``_MOST_VALUES``."""
_MOST_VALUES = 1000


def pages_in(text: str, structured: Any) -> list[Found]:
    """Web pages: {url, title, text} each; empty where no URL is told."""
    for value in _values(text, structured):
        if pages := [page for page in map(_page, _rows(value, _URL)) if page["url"]]:
            return pages
    return list(_pages_in_words(text))


def files_in(text: str, structured: Any) -> list[Found]:
    """Passages of files: {file_id, filename, score, text, attributes} each; empty where none is told as JSON."""
    for value in _values(text, structured):
        if files := [file for file in map(_file, _rows(value, _TEXT)) if file["text"]]:
            return files
    return []


def logs_in(text: str, structured: Any) -> str:
    """What code printed and gave: of JSON its streams and its result, else the text."""
    for value in _values(text, structured):
        if isinstance(value, dict) and ("stdout" in value or "stderr" in value):
            parts = [value.get(key) for key in ("stdout", "stderr", "result", "error")]
            said = [part if isinstance(part, str) else codec.dumps(part).decode() for part in parts if part is not None]
            return "\n".join(part.rstrip("\n") for part in said if part.strip())
    return text


def _values(text: str, structured: Any) -> Iterator[Any]:
    """The JSON values of an answer: its own, then those that its text consists of, as one list."""
    if structured is not None:
        yield structured
    decoder, at, values = json.JSONDecoder(), 0, list[Any]()
    text = text.strip()
    try:
        while at < len(text) and len(values) < _MOST_VALUES:
            value, at = decoder.raw_decode(text, at)
            values.append(value)
            at = _SPACE.match(text, at).end()  # type: ignore[union-attr]  # matches always
    except (ValueError, RecursionError):
        return
    if len(values) == 1:
        yield values[0]
    elif values:
        yield values


def _rows(value: Any, keys: Sequence[str], depth: int = 4) -> list[Mapping[str, Any]]:
    """The objects in a value that have one of the keys: those of its first list of them."""
    if isinstance(value, list):
        rows: list[Mapping[str, Any]] = [row for row in value if isinstance(row, dict)]
        if rows and any(key in row for row in rows for key in keys):
            return rows
        return [row for inner in value for row in _rows(inner, keys, depth - 1)] if depth else []
    if not isinstance(value, dict) or not depth:
        return []
    for key in _LISTS:
        if rows := _rows(value.get(key), keys, depth - 1):
            return rows
    return [value] if any(key in value for key in keys) else []


def _first(row: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((row[key] for key in keys if row.get(key) not in (None, "")), None)


def _said(value: Any) -> str:
    """A text, also one in parts: of strings, or of {text} objects as vector stores have them."""
    if isinstance(value, list):
        return "\n".join(filter(None, map(_said, value)))
    if isinstance(value, dict):
        return _said(value.get("text"))
    return value.strip() if isinstance(value, str) else ""


def _page(row: Mapping[str, Any]) -> Found:
    url = _first(row, _URL)
    fit = isinstance(url, str) and url.startswith(("http://", "https://"))
    return {"url": url if fit else "", "title": plain(_first(row, _TITLE)), "text": _said(_first(row, _TEXT))}


def _file(row: Mapping[str, Any]) -> Found:
    file_id, filename, score = _first(row, _FILE_ID), _first(row, _FILENAME), _first(row, _SCORE)
    attributes = _first(row, ("attributes", "metadata"))
    attributes = attributes if isinstance(attributes, dict) else {}
    name = filename if isinstance(filename, str) else _first(attributes, _FILENAME)
    return {
        "file_id": str(file_id if file_id is not None else name or "document"),
        "filename": str(name or file_id or "document").rpartition("/")[2],
        "score": float(score) if isinstance(score, int | float) and not isinstance(score, bool) else None,
        "text": _said(_first(row, _TEXT)),
        "attributes": {k: v for k, v in attributes.items() if isinstance(v, str | int | float | bool)},
    }


def _pages_in_words(text: str) -> Iterator[Found]:
    """The pages of a text in blocks, one a page; what stands in a block without a URL belongs to the page before it."""
    page: Found | None = None
    for block in filter(str.strip, _GAP.split(text[:_MOST_TEXT])):
        link, bare = _LINK.search(block), _BARE.search(block)
        if not link and not bare:
            if page:
                page["text"] = f"{page['text']}\n{block.strip()}".strip()
            continue
        if page:
            yield page
        page = _page_in_words(block, link, bare)
    if page:
        yield page


def _page_in_words(block: str, link: re.Match[str] | None, bare: re.Match[str] | None) -> Found:
    """The page of a block: its URL, its title (a link's text, else the first line), and the rest."""
    url = link[2] if link else bare[0].rstrip(".,;:!?)'\"*_") if bare else ""
    lines = [line for line in map(_unmarked, block.replace(link[0] if link else url, "").splitlines()) if line]
    title = link[1] if link else lines.pop(0) if lines and len(lines[0]) <= _LONGEST_TITLE else ""
    return {"url": url, "title": plain(title), "text": "\n".join(lines)}


def _unmarked(line: str) -> str:
    """A line without what marks it as an entry of a list, a heading or a field."""
    line = line[_LEAD.match(line).end() :]  # type: ignore[union-attr]  # matches always
    return _LABEL.sub("", line, count=1).strip(" *<>()-–—:") if _LABEL.match(line) else line.strip(" *<>()-–—:")
