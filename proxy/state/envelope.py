"""The form in which content lies in the store: as it is, compressed, or sealed with the operator's keys (ADR 0022).

A wrapped value begins with a byte below 0x20, as no JSON text and no frame of ours does. So whatever lies there is read
for what it is, and both options can be switched on, off and over at any time.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import logging
import secrets
from collections.abc import Sequence
from importlib import import_module
from time import monotonic
from typing import TYPE_CHECKING, Any

from proxy import codec
from proxy.errors import EncryptionKeyMissing, StatecarError
from proxy.state.keys import MARKED, PLAIN
from proxy.state.packing import Packer, unpacker
from proxy.state.past import Item, decode

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_log = logging.getLogger(__name__)

_SEALED = b"\x01"
_HASHED = b"\x01"
_PLAIN_FROM = 0x20

_SALT = b"statecar store 1"
_NAME, _NONCE = 4, 12  # bytes
_HEAD = 1 + _NAME + _NONCE

_TOLD = 60.0
"""Seconds between two lines in the log that say that a key is missing."""

ITEM, TEXT, METADATA, MODEL, OWNER = "item", "text", "metadata", "model", "owner"
"""What values are: one sealed as one of them does not open as another."""


class Envelope:
    """Wraps what callers and models say, before it goes into the store, and unwraps what comes out.

    ``keys``: texts, as those of ``proxy.seal.Sealer``; the first seals, all open. Every lineage and tenant has keys of
    its own, derived, so that none seals more than 2^32 values and no value opens in another's place. A sealed value is
    0x01, four bytes that name the key, a 96-bit nonce and the ciphertext; a compressed one 0x02 and a frame of zstd.
    ``compression``: ``off`` or ``zstd``. Raises ModuleNotFoundError for a library that is not installed.
    """

    def __init__(self, keys: Sequence[str] = (), compression: str = "off") -> None:
        self._masters = {_name(key): key for key in map(_master, keys)}
        self._first = next(iter(self._masters), b"")
        self._packer = Packer() if compression == "zstd" else None
        self._unpacker: Packer | None = None
        self._told: dict[bytes, float] = {}
        self.wraps = bool(keys) or self._packer is not None
        self.schema = MARKED if self.wraps else PLAIN
        if keys:
            # found here and not by an import statement: ADR 0008
            self._aead: Any = import_module("cryptography.hazmat.primitives.ciphers.aead").AESGCM
            self._invalid: type[Exception] = import_module("cryptography.exceptions").InvalidTag
            self._cipher = functools.lru_cache(maxsize=4096)(self._derive)

    def wrap(self, data: bytes, owner: str, about: str) -> bytes:
        """The data as it is to lie in the store. ``owner``: the lineage's tag, or the tenant; ``about``: what it is."""
        if self._packer:
            data = self._packer.packed(data)
        return self._seal(data, owner, about, secrets.token_bytes(_NONCE)) if self._first else data

    def unwrap(self, data: bytes, owner: str, about: str) -> bytes:
        """What was wrapped; data that was not, as it is. Raises EncryptionKeyMissing, and StatecarError for what was
        changed or lies in another's place.
        """
        if not data or data[0] >= _PLAIN_FROM:
            return data
        if data[:1] == _SEALED:
            data = self._opened(data, owner, about)
        if data and data[0] < _PLAIN_FROM:
            if self._unpacker is None:
                self._unpacker = self._packer or unpacker()
            data = self._unpacker.unpacked(data)
        return data

    def items(self, entries: Sequence[bytes], tag: str) -> list[Item]:
        """The items of log entries; erased ones are skipped. Raises as ``unwrap``."""
        if not self.wraps:
            try:
                return decode(entries)
            except ValueError:
                pass  # some were wrapped by another process
        return decode([self.unwrap(entry, tag, ITEM) for entry in entries])

    def entries(self, items: Sequence[Item], tag: str) -> list[bytes]:
        """The log entries of items."""
        if not self.wraps:
            return list(map(codec.dumps, items))
        return [self.wrap(codec.dumps(item), tag, ITEM) for item in items]

    def wrapped(self, values: Sequence[bytes], owner: str, about: str) -> Sequence[bytes]:
        """Values, each wrapped."""
        return [self.wrap(value, owner, about) for value in values] if self.wraps else values

    def unwrapped(self, values: list[bytes], owner: str, about: str) -> list[bytes]:
        """Values, each unwrapped."""
        if values and min(values) < b" ":
            return [self.unwrap(value, owner, about) for value in values]
        return values

    # -- names that others must find again, which no random nonce may change

    def name(self, id_: str, tag: str) -> str | bytes:
        """What stands for an id, which a client may have made: itself; with a key a hash that needs the key."""
        return _hashed(self._masters[self._first], tag, id_) if self._first else id_

    def names(self, id_: str, tag: str) -> list[str | bytes]:
        """All that may stand for it, the one of today first: keys change, and what is there stays."""
        return [*(_hashed(master, tag, id_) for master in self._masters.values()), id_]

    @property
    def key_names(self) -> list[str]:
        """What its keys are called, the one that encrypts first."""
        return [name.hex() for name in self._masters]

    @property
    def spellings(self) -> int:
        """How many names an id has."""
        return len(self._masters) + 1

    def digest(self, data: bytes, tag: str) -> bytes:
        """16 bytes that stand for a text, others for each form it may lie in."""
        key = _derived(self._masters[self._first], b"text\0" + tag.encode()) if self._first else b""
        form = b"zstd" if self._packer else b""
        return hashlib.blake2b(data, digest_size=16, key=key, person=form).digest()

    def model(self, model: str, tenant: str) -> bytes:
        """A model's name, the same bytes each time, so that a list can be filtered by it."""
        return self._model(self._first, codec.dumps(model), tenant) if self._first else codec.dumps(model)

    def models(self, model: str, tenant: str) -> list[bytes]:
        """All that may stand for it in records."""
        text = codec.dumps(model)
        return [*(self._model(name, text, tenant) for name in self._masters), text]

    def _model(self, name: bytes, text: bytes, tenant: str) -> bytes:
        # a nonce of the text itself: equal names of one tenant are to look the same, and only they can
        nonce = hmac.digest(_derived(self._masters[name], b"model"), f"{tenant}\0".encode() + text, "sha256")[:_NONCE]
        return self._seal(text, tenant, MODEL, nonce, name)

    # -- ciphers

    def _seal(self, data: bytes, owner: str, about: str, nonce: bytes, name: bytes = b"") -> bytes:
        name = name or self._first
        return _SEALED + name + nonce + self._cipher(name, owner).encrypt(nonce, data, about.encode())

    def _opened(self, data: bytes, owner: str, about: str) -> bytes:
        name = data[1 : 1 + _NAME]
        if name not in self._masters:
            self._tell(name)
            raise EncryptionKeyMissing
        try:
            return self._cipher(name, owner).decrypt(data[1 + _NAME : _HEAD], data[_HEAD:], about.encode())
        except self._invalid:
            _log.critical("stored content is damaged: %s of %s does not open with its key", about, owner)
            raise _damaged() from None

    def _tell(self, name: bytes) -> None:
        now = monotonic()
        if now - self._told.get(name, -_TOLD) >= _TOLD:
            self._told[name] = now
            _log.error("stored content was sealed with a key that is not here (%s): --encryption-key", name.hex())

    def _derive(self, name: bytes, owner: str) -> AESGCM:
        cipher: AESGCM = self._aead(_derived(self._masters[name], b"of\0" + owner.encode()))
        return cipher


def key_name(key: str) -> str:
    """What the log calls a key: the hex digits of the bytes that name it in each value. Nothing of it follows."""
    return _name(_master(key)).hex()


def _damaged() -> StatecarError:
    return StatecarError("The stored content is damaged.", code="history_damaged")


def _master(key: str) -> bytes:
    return hmac.digest(_SALT, key.encode(), "sha256")


def _name(master: bytes) -> bytes:
    return _derived(master, b"name")[:_NAME]


def _derived(master: bytes, purpose: bytes) -> bytes:
    return hmac.digest(master, purpose, "sha256")


def _hashed(master: bytes, tag: str, id_: str) -> bytes:
    named = f"{tag}\0{id_}".encode("utf-8", "surrogatepass")
    return _HASHED + hmac.digest(_derived(master, b"id"), named, "sha256")[:15]


OPEN = Envelope()
"""Leaves everything as it is, and reads all that needs no key."""
