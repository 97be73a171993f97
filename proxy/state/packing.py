"""Stored values as single frames of zstd."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any

from proxy.errors import StatecarError

_log = logging.getLogger(__name__)

PACKED = b"\x02"
"""What a packed value begins with."""

_LEAST = 64
"""Bytes from which on packing is tried."""

_LEVEL = 1
"""Items of 250 to 5000 bytes come out within 5 % of level 6, in a third of its time for the long ones."""

# What a frame may point back into before its own first byte: items of 250 bytes come out a fifth shorter. Stored values
# need these very bytes to be read, so another text would go under another mark.
_USUAL = (
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":,"item_id":"msg_'
    b'","output_index":0,"content_index":0,"delta":"","logprobs":[]}\n\n'
    b'","logprobs":[],"annotations":[]}],"type":"message","status":"completed","role":"assistant","content":'
    b'[{"type":"output_text","text":"{"type":"message","role":"user","content":[{"type":"input_text","text":"","id":"msg_'
)


class Packer:
    """Packs and unpacks. Raises ModuleNotFoundError where no zstd is installed."""

    def __init__(self) -> None:
        self._zstd = _library()
        self._usual = self._zstd.ZstdDict(_USUAL, is_raw=True)
        parameters = self._zstd.CompressionParameter
        options = {parameters.compression_level: _LEVEL, parameters.checksum_flag: 0}
        self._compressor = self._zstd.ZstdCompressor(options=options, zstd_dict=self._usual)

    def packed(self, data: bytes) -> bytes:
        """The mark and the data's frame; the data itself where that is not longer."""
        if len(data) < _LEAST:
            return data
        frame: bytes = self._compressor.compress(data, self._compressor.FLUSH_FRAME)
        return PACKED + frame if len(frame) + 1 < len(data) else data

    def unpacked(self, data: bytes) -> bytes:
        """What was packed. Raises StatecarError for anything else."""
        if data.startswith(PACKED):
            try:
                unpacked: bytes = self._zstd.decompress(data[1:], zstd_dict=self._usual)
                return unpacked
            except self._zstd.ZstdError:
                pass
        _log.critical("stored content is damaged: it is neither JSON nor a frame of zstd")
        raise StatecarError("The stored content is damaged.", code="history_damaged")


def unpacker() -> Packer:
    """One for what another process has packed. Raises StatecarError where no zstd is installed."""
    try:
        return Packer()
    except ModuleNotFoundError:
        _log.error("stored content is compressed, and the extra statecar[zstd] is not installed")
        raise StatecarError("The stored content is compressed, and this server cannot read that.") from None


def _library() -> Any:
    try:
        return import_module("compression.zstd")  # from Python 3.14 on
    except ModuleNotFoundError:
        return import_module("backports.zstd")
