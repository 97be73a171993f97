"""What searches found, numbered as the model reads it, and the citations of it in the answer (wire §6.4).

A source is cited by its number, as [3], [1, 2] or 【3】, or by its URL, bare or in a Markdown link. What stands in a
code span or block cites nothing: there [3] is an index or a list.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

Found = dict[str, Any]
Annotation = dict[str, Any]

_KEPT = ("url", "title", "file_id", "filename")


class Sources:
    """All that the searches of a context found, by number. Numbers run on over searches and turns."""

    def __init__(self) -> None:
        self._by_number: dict[int, Found] = {}
        self._by_url: dict[str, Found] = {}

    def __bool__(self) -> bool:
        return bool(self._by_number)

    def add(self, found: Iterable[Found]) -> tuple[str, list[Found]]:
        """Results of a search, numbered on: (their text for the model, what ``learn`` takes in a later turn).

        ``found``: of the web {url, title, text}, of files {file_id, filename, score, text}.
        """
        first = max(self._by_number, default=0) + 1
        results = [{"number": number, **result} for number, result in enumerate(found, first)]
        known = [{key: result[key] for key in ("number", *_KEPT) if result.get(key)} for result in results]
        self.learn(known)
        return "\n\n".join(map(_shown, results)), known

    def learn(self, known: Iterable[Found]) -> None:
        """Results that an earlier turn was shown."""
        for source in known:
            self._by_number[source["number"]] = source
            if url := source.get("url"):
                self._by_url.setdefault(_bare(url), source)

    def numbered(self, number: int) -> Found | None:
        return self._by_number.get(number)

    def at(self, url: str) -> Found | None:
        return self._by_url.get(_bare(url))


def _shown(result: Found) -> str:
    if url := result.get("url"):
        return f"[{result['number']}] {result.get('title') or url}\n{url}\n{result.get('text', '')}".rstrip()
    return f"[{result['number']}] {result.get('filename') or result.get('file_id')}\n{result.get('text', '')}".rstrip()


def _bare(url: str) -> str:
    """What is the same for spellings of a URL that name one page."""
    return url.partition("#")[0].partition("://")[2].rstrip("/")


class Citations:
    """The citations in one text part, found while it is written. Any cut of the text gives the same ones."""

    _URL = r"[^\s<>\"`\[\]{}|\\^【】\u00a0\u2000-\u206f\u3000-\u303f\uff00-\uffef]"
    _TOKEN = re.compile(
        r"(?P<ticks>`{1,8})|(?P<line>\n)"
        r"|\[(?P<number>\d{1,4}(?: ?, ?\d{1,4}){0,9})\]|【(?P<lenticular>\d{1,4})(?:†[^】\n]{0,80})?】"
        rf"|(?P<bracket>\[)|(?P<url>https?://{_URL}{{1,2000}})",
        re.ASCII,
    )
    _BEGUN = re.compile(
        r"(?:`{1,7}|\[[\d, ]{0,67}|【[^】\n]{0,85}"
        rf"|h(?:t(?:t(?:p(?:s?(?::(?:/(?:/{_URL}{{0,1999}})?)?)?)?)?)?)?)\Z",
        re.ASCII,
    )
    """The end of a text that may become a token, or a longer one."""

    _CLOSERS = {")": "(", "]": "[", "}": "{"}

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._text = ""  # not yet read
        self._at = 0  # where that begins in the part
        self._before = ""  # the two characters in front of it
        self._code = 0  # length of the backticks that opened the code we are in
        self._bracket: int | None = None  # where the last [ of this line stands
        self._cited: tuple[int, Found | None] = (-1, None)  # where the last number's bracket ended, and whose it was

    def feed(self, piece: str) -> list[Annotation]:
        """The citations that this piece of the text completes, in their order. Places count from the part's start."""
        self._text += piece
        begun = self._BEGUN.search(self._text)
        return list(self._read(begun.start() if begun else len(self._text)))

    def flush(self) -> list[Annotation]:
        """The rest, at the end of the text."""
        return list(self._read(len(self._text)))

    def _read(self, end: int) -> Iterator[Annotation]:
        """``end``: from there on more text may change what stands there."""
        text, at = self._text, 0
        for token in self._TOKEN.finditer(text):
            if token.end() > end:
                end = min(end, token.start())
                break
            self._pass(text[at : token.start()])
            yield from self._take(token)
            self._pass(token[0])
            at = token.end()
        self._pass(text[at:end])
        self._text = text[end:]

    def _pass(self, text: str) -> None:
        self._at += len(text)
        self._before = (self._before + text[-2:])[-2:]

    def _take(self, token: re.Match[str]) -> Iterator[Annotation]:
        kind, start = token.lastgroup, self._at
        if kind == "ticks":
            self._ticks(len(token[0]))
        elif kind == "line":
            self._bracket = None
            self._code = self._code if self._code >= 3 else 0  # only a block goes on
        elif not self._code:
            if kind == "url":
                yield from self._link(token, start)
            elif kind == "bracket":
                self._bracket = start
            else:
                yield from self._marker(token, start)

    def _ticks(self, length: int) -> None:
        if not self._code:
            self._code = length
        elif length == self._code or length > self._code >= 3:
            self._code = 0

    def _marker(self, token: re.Match[str], start: int) -> Iterator[Annotation]:
        end = start + len(token[0])
        self._bracket = start
        for number in (token["number"] or token["lenticular"]).split(","):
            if source := self._sources.numbered(int(number)):
                self._cited = (end, source)
                yield _annotation(source, start, end)

    def _link(self, token: re.Match[str], start: int) -> Iterator[Annotation]:
        url = self._trimmed(token["url"])
        source, end = self._sources.at(url), start + len(url)
        linked = self._before == "](" and self._bracket is not None
        if source is None or (linked and self._cited == (start - 1, source)):
            return
        after = token.start() + len(url)
        if linked and token.string[after : after + 1] == ")":
            start, end = self._bracket or 0, end + 1
        yield _annotation(source, start, end)

    def _trimmed(self, url: str) -> str:
        """Without what belongs to the sentence around it: stops, and brackets that were not opened in it."""
        while url:
            last = url[-1]
            opener = self._CLOSERS.get(last)
            if last not in ".,;:!?'*_~" and not (opener and url.count(last) > url.count(opener)):
                break
            url = url[:-1]
        return url


def _annotation(source: Found, start: int, end: int) -> Annotation:
    if url := source.get("url"):
        title = source.get("title") or url
        return {"type": "url_citation", "url": url, "title": title, "start_index": start, "end_index": end}
    file_id = source.get("file_id") or ""
    return {"type": "file_citation", "file_id": file_id, "filename": source.get("filename") or file_id, "index": start}
