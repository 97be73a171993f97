"""A stream's chunks; those that only bring another text are known without being parsed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from proxy import codec

Chunk = dict[str, Any]

_STRING = re.compile(rb'"[ \t]*:[ \t]*("[^"\\]*(?:\\.[^"\\]*)*")')  # the end of a key, and the string that is its value
_PROBE = "another text \u2021"
_PROBED = codec.dumps(_PROBE)
_TRIES, _LONGEST = 4, 4096  # bytes of a payload that is worth the while: one that brings a token has some 300


class Texts(list[str]):
    """Chunks that are like one before them, save for the text in ``field`` of its delta: the texts, one for each.

    None of them holds a lone surrogate.
    """

    __slots__ = ("field", "like")  # and no __init__, a frame for every token
    field: str
    like: Chunk

    def chunk(self, text: str) -> Chunk:
        """The whole chunk that brings this text."""
        return _with(self.like, self.field, text)


class Repeats:
    """Knows payloads that repeat a chunk with another text: 0.4 us instead of 2.4, with all that is asked of a chunk.

    Of a payload it is learned what stands around its text. Valid JSON with one string in the place of another has the
    same structure, so a payload with the same around any string is the same chunk with that text. ``hopeless``: chunks
    vary in other ways, and trying on would only take time.
    """

    def __init__(self) -> None:
        self.hopeless = False
        self._like: Chunk = {}
        self._field = ""
        self._before = self._after = b""
        self._string = slice(0)  # of a payload that repeats it: its text, the quotes included
        self._tries = 0

    def read(self, payloads: Iterator[bytes]) -> tuple[Texts | None, bytes | None]:
        """The next payloads, as far as they repeat the chunk, and the one after them; None for none."""
        before, after, string, loads = self._before, self._after, self._string, codec.loads_utf8
        texts = Texts()
        for payload in payloads:
            if not (before and payload.startswith(before) and payload.endswith(after) and type(payload) is bytes):
                break
            try:
                texts.append(loads(payload[string]))
            except ValueError:
                break
        else:
            payload = None
        if not texts:
            return None, payload
        self._tries, texts.like, texts.field = 0, self._like, self._field
        return texts, payload

    def learn(self, payload: bytes, chunk: Chunk) -> None:
        """From now on the payloads that repeat this one, which is the chunk, are known."""
        if len(payload) > _LONGEST or not (field := _text_field(chunk)):
            return
        self.hopeless = self._tries >= _TRIES
        self._tries += 1
        found = _STRING.match(payload, payload.find(b'"%b"' % field.encode()) + len(field) + 1)
        if found is None:
            return
        before, after = payload[: found.start(1) + 1], payload[found.end(1) - 1 :]
        try:
            probed = codec.loads_utf8(before + _PROBED[1:-1] + after)
        except ValueError:
            return
        if probed == _with(chunk, field, _PROBE):  # so it is this string that the text was read from, and no other
            self._like, self._field, self._before, self._after = chunk, field, before, after
            self._string = slice(len(before) - 1, 1 - len(after))


def _text_field(chunk: Chunk) -> str:
    """Where the text of a chunk stands that brings nothing else; "" for any other chunk."""
    choices = chunk.get("choices")
    if type(choices) is not list or len(choices) != 1 or type(choice := choices[0]) is not dict:
        return ""
    if type(delta := choice.get("delta")) is not dict:
        return ""
    brought = [(field, value) for field, value in delta.items() if value and field != "role"]
    if len(brought) != 1:
        return ""
    field, text = brought[0]
    return field if type(text) is str and text != _PROBE and field.isascii() else ""


def _with(chunk: Chunk, field: str, text: str) -> Chunk:
    choice = chunk["choices"][0]
    return {**chunk, "choices": [{**choice, "delta": {**choice["delta"], field: text}}]}
