"""Server-sent events as bytes: a decoder for what upstreams send, an encoder for what clients read."""

from __future__ import annotations

from typing import Any

from proxy import codec

DONE = b"data: [DONE]\n\n"
KEEPALIVE = b": keepalive\n\n"
LINE_LIMIT = 64 * 1024 * 1024


class Failure(bytes):
    """The data of an event that its sender marked as an error (``event: error``, or an ``error:`` line)."""


class Decoder:
    """Bytes in, ``data`` payloads out; any split of the bytes gives the same payloads (wire §11.4).

    Lines end in ``\\n``, ``\\r\\n`` or ``\\r``. Several ``data`` lines of one event are joined by ``\\n``. Comments and
    other fields are skipped, save those that mark an error: their payload is a ``Failure``.
    """

    def __init__(self) -> None:
        self._line: list[bytes] = []
        self._size = 0
        self._data: list[bytes] = []
        self._failed = False
        self._after_cr = False
        self._begun = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The payloads completed by these bytes. Raises ValueError when one line exceeds 64 MiB."""
        if not self._begun:
            chunk = self._skip_bom(chunk)
        if self._after_cr or b"\r" in chunk:
            chunk = self._unix(chunk)
        if self._line and b"\n" in chunk:
            chunk = b"".join([*self._line, chunk])
            self._line, self._size = [], 0
        out: list[bytes] = []
        if chunk.startswith(b"data: ") and not (self._line or self._data or self._failed):
            # events that are one data line each, as nearly always: 0.2 us for each instead of 0.5
            end = chunk.rfind(b"\n\n")
            alone = chunk[6:end].split(b"\n\ndata: ")
            if end > 0 and chunk.count(b"\n", 0, end) == 2 * len(alone) - 2:
                out, chunk = alone, chunk[end + 2 :]
        if chunk:
            *lines, rest = chunk.split(b"\n")
            for line in lines:
                self._take(line, out)
            if rest:
                self._keep(rest)
        return out

    def flush(self) -> list[bytes]:
        """What a stream that ended without its last blank line still holds."""
        out: list[bytes] = []
        if self._line:
            self._take(b"".join(self._line), out)
            self._line, self._size = [], 0
        self._take(b"", out)
        return out

    def _unix(self, chunk: bytes) -> bytes:
        """The bytes with each line end as ``\\n``; one that began in the chunk before is not repeated."""
        if self._after_cr and chunk:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return chunk

    def _keep(self, rest: bytes) -> None:
        self._line.append(rest)
        self._size += len(rest)
        if self._size > LINE_LIMIT:
            raise ValueError(f"an event-stream line exceeds {LINE_LIMIT} bytes")

    def _take(self, line: bytes, out: list[bytes]) -> None:
        if line.startswith(b"data:"):
            self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
        elif not line:
            if self._data:
                payload = b"\n".join(self._data)
                out.append(Failure(payload) if self._failed else payload)
                self._data = []
            self._failed = False
        elif line.startswith(b"event:"):
            self._failed = line[6:].strip() == b"error"
        elif line.startswith(b"error:"):  # llama.cpp before 2025-09 reports errors so
            out.append(Failure(line[6:].strip()))

    def _skip_bom(self, chunk: bytes) -> bytes:
        held = b"".join(self._line) + chunk
        if len(held) < 3 and b"\xef\xbb\xbf".startswith(held):
            self._line = [held] if held else []
            return b""
        self._begun, self._line, self._size = True, [], 0
        return held.removeprefix(b"\xef\xbb\xbf")


def encode(event: dict[str, Any]) -> bytes:
    """One whole frame: ``event`` line, one ``data`` line of compact JSON, an empty line (wire §9.1)."""
    try:
        data = codec.dumps_utf8(event)
    except TypeError:
        data = codec.dumps(event)
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), data)


def decode(frame: bytes) -> dict[str, Any]:
    """The event of a frame that ``encode`` made."""
    event: dict[str, Any] = codec.loads(data_of(frame))
    return event


def data_of(frame: bytes) -> bytes:
    """The JSON of a frame that ``encode`` made."""
    return frame[frame.index(b"\ndata: ") + 7 : -2]
