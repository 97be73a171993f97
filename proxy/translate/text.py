"""Text that arrives in pieces: surrogate halves joined, ``<think>`` tags split off, a string read out of its JSON.

Any cut gives the same text.
"""

from __future__ import annotations

import re

from proxy import codec


class Halves:
    """Holds back a high surrogate at the end of a piece until its other half comes (wire §9.1).

    ``held``: that surrogate, "" for none.
    """

    def __init__(self) -> None:
        self.held = ""

    def feed(self, piece: str) -> str:
        if not self.held and not "\ud800" <= piece[-1:] <= "\udbff":
            return piece
        joined = _joined(self.held + piece)
        if "\ud800" <= joined[-1:] <= "\udbff":
            self.held = joined[-1]
            return joined[:-1]
        self.held = ""
        return joined

    def flush(self) -> str:
        held, self.held = self.held, ""
        return held


class ThinkTags:
    """Splits ``<think>…</think>`` out of content, for upstreams without a reasoning parser (wire §8.4, opt-in).

    Only a tag that opens the answer counts: text that talks about tags stays text.
    """

    _OPEN, _CLOSE = "<think>", "</think>"

    def __init__(self) -> None:
        self._state = "start"
        self._held = ""

    def feed(self, piece: str) -> tuple[str, str]:
        """(reasoning, text) of this piece."""
        if self._state == "text":
            return "", piece
        self._held += piece
        if self._state == "start":
            begun = self._held.lstrip()
            if self._OPEN.startswith(begun) and begun != self._OPEN:
                return "", ""
            if not begun.startswith(self._OPEN):
                self._state = "text"
                return "", self.flush()
            self._state, self._held = "thought", begun[len(self._OPEN) :]
        return self._thought()

    def flush(self) -> str:
        """What is still held at the end, to be taken as what it was being read as."""
        held, self._held = self._held, ""
        return held

    @property
    def thinking(self) -> bool:
        return self._state == "thought"

    def _thought(self) -> tuple[str, str]:
        thought, tag, rest = self._held.partition(self._CLOSE)
        if tag:
            self._state, self._held = "text", ""
            return thought, rest
        keep = next((n for n in range(len(self._CLOSE) - 1, 0, -1) if self._held.endswith(self._CLOSE[:n])), 0)
        cut = len(self._held) - keep
        thought, self._held = self._held[:cut], self._held[cut:]
        return thought, ""


class InputString:
    """Reads the text out of ``{"input": "<text>"}``, or of another key, while it is being written (wire §7.7, §9.6).

    Arguments that begin in another way are held until their end: only then is it known whether they are an object with
    such a string all the same, else they are the text themselves. Within the string, what is no legal JSON stands for
    itself: raw line ends, unknown escapes, and a quote that neither ends the object nor begins its next key.
    """

    _STOP, _SPACE = re.compile(r'["\\]'), " \t\r\n"
    _ESCAPE = re.compile(r'\\(?:(["\\/bfnrt])|u([0-9a-fA-F]{4}))')
    _QUOTE = re.compile(r'"[ \t\r\n]*(.?)', re.S)
    _BEGUN = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?\Z")
    _PLAIN = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}

    def __init__(self, key: str = "input") -> None:
        self._key, self._begins = key, f'{{"{key}":"'
        self._between = (0, 1, len(self._begins) - 2, len(self._begins) - 1)
        self._read = self._head
        self._matched = 0
        self._raw: list[str] = []
        self._held = ""
        self._blanks: list[str] = []  # after a held quote; models may write them without end

    def feed(self, piece: str) -> str:
        """What this piece of the arguments adds to the text."""
        return self._read(piece)

    def flush(self) -> str:
        """The rest of the text at the end of the arguments; an escape that was cut off is lost."""
        if self._read not in (self._head, self._whole):
            return ""
        whole = _joined("".join(self._raw))
        try:
            given = codec.loads(whole)
        except ValueError:
            return whole
        text = given.get(self._key) if isinstance(given, dict) else None
        return text if isinstance(text, str) else whole

    def _head(self, piece: str) -> str:
        self._raw.append(piece)
        for at, char in enumerate(piece):
            if char == self._begins[self._matched]:
                self._matched += 1
                if self._matched == len(self._begins):
                    self._read = self._string
                    return self._string(piece[at + 1 :])
            elif char not in self._SPACE or self._matched not in self._between:
                self._read = self._whole
                break
        return ""

    def _whole(self, piece: str) -> str:
        self._raw.append(piece)
        return ""

    def _string(self, piece: str) -> str:
        if self._held.startswith('"') and not piece.strip(self._SPACE):
            self._blanks.append(piece)
            return ""
        text, self._held, self._blanks = "".join([self._held, *self._blanks, piece]), "", []
        out: list[str] = []
        at, escaped = 0, False
        while stop := self._STOP.search(text, at):
            out.append(text[at : stop.start()])
            at = stop.end()
            if quote := self._QUOTE.match(text, stop.start()):
                if quote[1] not in ("", ",", "}"):
                    out.append('"')
                    continue
                self._held, at = text[stop.start() :], len(text)
                self._read = self._done if quote[1] else self._string
            elif escape := self._ESCAPE.match(text, stop.start()):
                out.append(self._PLAIN.get(escape[1], escape[1]) if escape[1] else chr(int(escape[2], 16)))
                at, escaped = escape.end(), escaped or bool(escape[2])
            elif self._BEGUN.match(text, stop.start()):
                self._held, at = text[stop.start() :], len(text)
            else:
                out.append("\\")
        out.append(text[at:])
        return _joined("".join(out)) if escaped else "".join(out)

    def _done(self, piece: str) -> str:
        return ""


def _joined(text: str) -> str:
    """Surrogate halves that stand next to each other as the character they are."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
