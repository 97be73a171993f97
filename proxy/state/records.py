"""A response as its record: the fields scripts need, and the body in a form Redis keeps compact.

A Redis hash is stored as one packed block only while every value has at most 64 bytes; one longer value makes it a hash
table of three times the size. So the body's JSON is cut into pieces of 64 bytes, in fields ``0``, ``1`` …
Long instructions, tools and formats, which clients repeat every turn, lie once per lineage among the texts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proxy import codec, ids
from proxy.errors import StatecarError
from proxy.rules import Owner
from proxy.state.envelope import MODEL, OPEN, TEXT, Envelope
from proxy.state.keys import MARKED, PLAIN, SCHEMA
from proxy.state.owners import FIELDS, owned, owner_of
from proxy.state.past import Item, Past, whole
from proxy.state.quotas import Admission
from proxy.state.runs import End

_PIECE = 64
_MOST_PIECES = 256  # longer bodies are one field: a packed block of 16 KiB is slow to search, and HSET has a limit
LONG = 512
SHARED = ("instructions", "tools", "text")


@dataclass(slots=True)
class Draft:
    """A finished response, ready to be saved.

    ``body``: what a response object holds beside items and the other fields here. ``input``, ``output``: its items with
    their ids. ``append``: it becomes the newest of its chain or conversation; False for failed and cancelled ones.
    ``minter``: made the ids; its tag is ``past.tag``. Saving may give input items fresh ids. ``end``: the run it was.
    ``conversation``: the id of the one it was made in, also where that is not locked any more. ``owner``: whose it is.
    ``admission``: of the request, which is told what was stored.
    """

    id: str
    tenant: str
    status: str
    model: str
    created_at: int
    body: dict[str, Any]
    input: list[Item]
    output: list[Item]
    past: Past
    append: bool
    minter: ids.Minter
    end: End | None = None
    conversation: str | None = None
    owner: Owner = None
    admission: Admission | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored response with its own items. ``conversation``: the id of the one it was made in.

    ``logged``: its events were, and perhaps still are, in a log.
    """

    id: str
    status: str
    model: str
    created_at: int
    body: dict[str, Any]
    conversation: str | None
    input: list[Item]
    output: list[Item]
    logged: bool = False
    owner: Owner = None


Fields = dict[str, bytes]


def encode(draft: Draft, envelope: Envelope = OPEN) -> tuple[list[str | bytes | int], list[bytes]]:
    """(fields and values, hashes and texts) of a response, each flat, without its positions; the schema comes first."""
    tag = draft.past.tag
    schema = MARKED if draft.owner else max(draft.past.schema, envelope.schema)
    model = envelope.model(draft.model, draft.tenant) if schema >= MARKED else _encode_model(draft.model)
    fields: list[str | bytes | int] = ["v", schema, "t", draft.tenant, "st", draft.status, "m", model]
    fields += ["c", draft.created_at, *owned(draft.owner, envelope, tag)]
    if draft.past.lock:
        fields += ["k", draft.past.lock.conversation]
    elif made_in := ids.of_kind(draft.conversation, "conv"):
        fields += ["k", made_in.turn]
    if draft.end:
        fields += ["w", draft.end.lease.token]
        if draft.end.events:
            fields += ["o", 1]
    body, texts = dict(draft.body), list[bytes]()
    previous = ids.of_kind(body.get("previous_response_id"), "resp")
    if previous and previous.tag == tag:
        fields += ["q", previous.turn]
        del body["previous_response_id"]
    for name in SHARED:
        text = codec.dumps(body[name]) if name in body else b""
        if len(text) > LONG:
            digest = envelope.digest(text, tag)
            fields += [f"x:{name}", digest]
            texts += [digest, envelope.wrap(text, tag, TEXT) if envelope.wraps else text]
            del body[name]
    if body:
        data = codec.dumps(body)
        fields += _pieces(envelope.wrap(data, tag, _about(draft.minter.turn)) if envelope.wraps else data)
    return fields, texts


def _pieces(data: bytes) -> list[int | bytes]:
    """A body's bytes as fields and values."""
    size = _PIECE if len(data) <= _PIECE * _MOST_PIECES else len(data)
    return [part for n, at in enumerate(range(0, len(data), size)) for part in (n, data[at : at + size])]


def models(model: str, tenant: str, envelope: Envelope) -> list[bytes]:
    """All that may stand for a model's name in a tenant's records."""
    return [*envelope.models(model, tenant), _encode_model(model)]


def _encode_model(model: str) -> bytes:
    """A model's name as in schema 1: JSON allows lone surrogates, UTF-8 does not."""
    return model.encode("utf-8", "surrogatepass")


def _about(turn: str) -> str:
    """What a body is sealed as: a record's own, so that none can take another's place."""
    return f"body {turn}"


def _from_plain(fields: Fields) -> Fields:
    return {**fields, "m": codec.dumps(fields["m"].decode("utf-8", "surrogatepass"))}


_MIGRATIONS: dict[int, Callable[[Fields], Fields]] = {PLAIN: _from_plain}
"""From each schema to the next one. Records are migrated when they are read, and stay as they are in the store."""


def migrated(fields: Fields) -> Fields:
    """A record's fields by the newest schema."""
    for schema in range(int(fields["v"]), SCHEMA):
        fields = _MIGRATIONS[schema](fields)
    return fields


def decode_stored(
    tag: str, turn: str, reply: tuple[list[bytes], list[bytes], list[bytes | None]], envelope: Envelope
) -> Stored:
    """The response of a load script's reply. Raises StatecarError when something it needs has gone, and as
    ``Envelope.unwrap``.
    """
    flat, entries, texts = reply
    fields = migrated({name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)})
    start, split, end = int(fields["s"]), int(fields["p"]), int(fields["e"])
    whole(entries, end - start, f"response {tag} {turn}")
    pieces = sorted((int(name), value) for name, value in fields.items() if name.isdecimal())
    data = b"".join(value for _, value in pieces)
    body = codec.loads(envelope.unwrap(data, tag, _about(turn))) if data else {}
    for name, text in zip(texts[::2], texts[1::2], strict=True):
        assert name is not None, "scripts answer fields by their names"
        if text is None:
            raise StatecarError("The stored response is damaged.", code="history_damaged")
        body[name.decode().removeprefix("x:")] = codec.loads(envelope.unwrap(text, tag, TEXT))
    if "q" in fields:
        body["previous_response_id"] = f"resp_{tag}{fields['q'].decode()}0000"
    return Stored(
        id=f"resp_{tag}{turn}0000",
        status=fields["st"].decode(),
        model=codec.loads(envelope.unwrap(fields["m"], fields["t"].decode(), MODEL)),
        created_at=int(fields["c"]),
        body=body,
        conversation=f"conv_{tag}{fields['k'].decode()}0000" if "k" in fields else None,
        input=envelope.items(entries[: split - start], tag),
        output=envelope.items(entries[split - start :], tag),
        logged="o" in fields,
        owner=owner_of(map(fields.get, FIELDS), envelope, tag),
    )
