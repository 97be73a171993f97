"""Text that arrives in pieces: surrogate halves joined, ``<think>`` tags split off. Any cut gives the same text."""

from __future__ import annotations


class Halves:
    """Holds back a high surrogate at the end of a piece until its other half comes (wire §9.1)."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, piece: str) -> str:
        if not self._held and not "\ud800" <= piece[-1:] <= "\udbff":
            return piece
        joined = (self._held + piece).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        if "\ud800" <= joined[-1:] <= "\udbff":
            self._held = joined[-1]
            return joined[:-1]
        self._held = ""
        return joined

    def flush(self) -> str:
        held, self._held = self._held, ""
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
