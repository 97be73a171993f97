"""Text that clients carry for us: sealed, so that nobody else can read, change or reuse it (wire §7.6, §10.9)."""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_SEALED, _PACKED = "sc1.", "sc0."
REASONING, COMPACTION, HEADERS, TOOLS = "reasoning", "compaction", "headers", "tools"
"""Purposes: what is sealed for one is not opened for another."""

_SALT = b"statecar seal 1"
_NONCE, _TAG = 12, 16  # bytes


class Sealer:
    """AES-256-GCM over texts. A sealed text is ``sc1.`` and base64url of a random 96-bit nonce and the ciphertext.

    ``keys``: texts; the first seals, all open. An AES key is HMAC-SHA-256 of the text under a fixed salt (the extract
    step of HKDF): texts should be random, as nothing here slows a guess down. Replicas with the same keys open each
    other's. A key may seal 2^32 texts (NIST SP 800-38D): put a new one first before that.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        # found here and not by an import statement: 6 ms and 6 MB that a process without keys does not pay
        aead = import_module("cryptography.hazmat.primitives.ciphers.aead")
        self._invalid: type[Exception] = import_module("cryptography.exceptions").InvalidTag
        self._ciphers: list[AESGCM] = [aead.AESGCM(hmac.digest(_SALT, key.encode(), "sha256")) for key in keys]

    def seal(self, text: str, purpose: str, tenant: str) -> str:
        """The text as something only ``open`` with the same purpose and tenant can read."""
        nonce = secrets.token_bytes(_NONCE)
        sealed = self._ciphers[0].encrypt(nonce, text.encode("utf-8", "surrogatepass"), _bound(purpose, tenant))
        return _SEALED + _encoded(nonce + sealed)

    def open(self, sealed: str, purpose: str, tenant: str) -> str | None:
        """The text; None for anything that was not sealed so: foreign, changed, another purpose's or tenant's."""
        data = _decoded(sealed, _SEALED)
        if len(data) < _NONCE + _TAG:
            return None
        for cipher in self._ciphers:
            try:
                text = cipher.decrypt(data[:_NONCE], data[_NONCE:], _bound(purpose, tenant))
            except self._invalid:
                continue
            return text.decode("utf-8", "surrogatepass")
        return None


def packed(text: str) -> str:
    """The text in an opaque form that anybody can read, ``sc0.`` and base64url: for servers without a key."""
    return _PACKED + _encoded(text.encode("utf-8", "surrogatepass"))


def unpacked(given: str) -> str | None:
    """The text that ``packed`` was given; None for anything else."""
    try:
        return _decoded(given, _PACKED).decode("utf-8", "surrogatepass") or None
    except UnicodeDecodeError:
        return None


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str, prefix: str) -> bytes:
    """What the base64url after the prefix stands for; nothing for any other text."""
    try:
        data = text.removeprefix(prefix).encode() if text.startswith(prefix) else b""
        return base64.b64decode(data + b"=" * (-len(data) % 4), altchars=b"-_", validate=True)
    except ValueError:
        return b""


def _bound(purpose: str, tenant: str) -> bytes:
    return f"{purpose}\0{tenant}".encode()
