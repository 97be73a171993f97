"""A response as its record: the fields scripts need, and the body in a form Redis keeps compact.

A Redis hash is stored as one packed block only while every value has at most 64 bytes; one longer value makes it a hash
table of three times the size. So the body's JSON is cut into pieces of 64 bytes, in fields ``0``, ``1`` …
Long instructions, tools and formats, which clients repeat every turn, lie once per lineage among the texts.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from proxy import codec, ids
from proxy.errors import StatecarError
from proxy.rules import Owner
from proxy.state.keys import MARKED, PLAIN
from proxy.state.owners import FIELDS, owned, owner_of
from proxy.state.past import Item, Past, decode, whole
from proxy.state.quotas import Admission
from proxy.state.runs import End

_PIECE = 64
_MOST_PIECES = 256  # longer bodies are one field: a packed block of 16 KiB is slow to search, and HSET has a limit
_LONG = 512
_SHARED = ("instructions", "tools", "text")


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


def encode(draft: Draft) -> tuple[list[str | bytes | int], list[bytes]]:
    """(fields and values, hashes and texts) of a response, each flat, without its positions."""
    fields: list[str | bytes | int] = [
        "v",
        MARKED if draft.owner else PLAIN,
        "t",
        draft.tenant,
        "st",
        draft.status,
        "m",
        encode_model(draft.model),
    ]
    fields += ["c", draft.created_at, *owned(draft.owner)]
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
    if previous and previous.tag == draft.past.tag:
        fields += ["q", previous.turn]
        del body["previous_response_id"]
    for name in _SHARED:
        text = codec.dumps(body[name]) if name in body else b""
        if len(text) > _LONG:
            digest = hashlib.blake2b(text, digest_size=16).digest()
            fields += [f"x:{name}", digest]
            texts += [digest, text]
            del body[name]
    if body:
        data = codec.dumps(body)
        size = _PIECE if len(data) <= _PIECE * _MOST_PIECES else len(data)
        for n, at in enumerate(range(0, len(data), size)):
            fields += [n, data[at : at + size]]
    return fields, texts


def encode_model(model: str) -> bytes:
    """A model's name as stored: JSON allows lone surrogates, UTF-8 does not."""
    return model.encode("utf-8", "surrogatepass")


def decode_stored(tag: str, turn: str, reply: tuple[list[bytes], list[bytes], list[bytes | None]]) -> Stored:
    """The response of a load script's reply. Raises StatecarError when something it needs has gone."""
    flat, entries, texts = reply
    fields = {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}
    start, split, end = int(fields["s"]), int(fields["p"]), int(fields["e"])
    whole(entries, end - start, f"response {tag} {turn}")
    pieces = sorted((int(name), value) for name, value in fields.items() if name.isdecimal())
    body = codec.loads(b"".join(value for _, value in pieces)) if pieces else {}
    for name, text in zip(texts[::2], texts[1::2], strict=True):
        assert name is not None, "scripts answer fields by their names"
        if text is None:
            raise StatecarError("The stored response is damaged.", code="history_damaged")
        body[name.decode().removeprefix("x:")] = codec.loads(text)
    if "q" in fields:
        body["previous_response_id"] = f"resp_{tag}{fields['q'].decode()}0000"
    return Stored(
        id=f"resp_{tag}{turn}0000",
        status=fields["st"].decode(),
        model=fields["m"].decode("utf-8", "surrogatepass"),
        created_at=int(fields["c"]),
        body=body,
        conversation=f"conv_{tag}{fields['k'].decode()}0000" if "k" in fields else None,
        input=decode(entries[: split - start]),
        output=decode(entries[split - start :]),
        logged="o" in fields,
        owner=owner_of(map(fields.get, FIELDS)),
    )
