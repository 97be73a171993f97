"""Whose a response, a run or a conversation is: kept with it, and read before anything is done with it (ADR 0021)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from proxy import ids
from proxy.principals import Principal
from proxy.rules import Owner
from proxy.state.client import Client, Script
from proxy.state.envelope import OWNER, Envelope
from proxy.state.keys import Lineage

_OWNER = Script("owner")
_OWNERS = Script("owners")

FIELDS = ("a", "a1", "a2", "a3")
"""What holds an owner; in a record each at most 64 bytes, so that Redis keeps it compact."""

_PIECE = 64


class Kept(NamedTuple):
    """Something that is there. ``owner``: whose."""

    owner: Owner


Sees = Callable[[str, Owner], bool]
"""Whether a thing, by its id and owner, may be read; what may not is answered as a missing one."""


def owned(owner: Owner, envelope: Envelope, tag: str) -> list[str | bytes | int]:
    """The fields and values that keep an owner; none for nobody's."""
    if owner is None:
        return []
    text = envelope.wrap(owner.encoded(), tag, OWNER)
    size = _PIECE if len(text) <= _PIECE * len(FIELDS) else len(text)
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    return [part for pair in zip(FIELDS, pieces, strict=False) for part in pair]


def owner_of(pieces: Iterable[bytes | None], envelope: Envelope, tag: str) -> Owner:
    """The owner that is kept in the values of ``FIELDS``. Raises as ``Envelope.unwrap``."""
    text = b"".join(piece for piece in pieces if piece)
    return Principal.decoded(envelope.unwrap(text, tag, OWNER)) if text else None


class Owners:
    """Verbs on owners; both raise StoreUnavailable."""

    def __init__(self, client: Client, envelope: Envelope) -> None:
        self._client, self._envelope = client, envelope

    async def of(self, id_: str, tenant: str) -> Kept | None:
        """Whose a response, a run or a conversation is; None when there is none, or it is another tenant's."""
        minted = ids.parse(id_)
        if minted is None or minted.ordinal or minted.prefix not in ("resp", "conv"):
            return None
        lineage = Lineage(minted.tag)
        if minted.prefix == "conv":
            reply = await self._client.script(_OWNER, [lineage.conversation], tenant, minted.turn)
        else:
            keys = [lineage.record(minted.turn), lineage.run(minted.turn)]
            reply = await self._client.script(_OWNER, keys, tenant, "")
        return None if reply is None else Kept(owner_of([reply], self._envelope, minted.tag))

    async def hidden(self, responses: Sequence[str], tenant: str, sees: Sees) -> set[str]:
        """Those of these responses that are there, and out of sight."""
        minted = {id_: ids.of_kind(id_, "resp") for id_ in responses}
        keys = {id_: Lineage(one.tag).record(one.turn) for id_, one in minted.items() if one}
        batches = [[key] for key in keys.values()] if self._client.is_cluster else [list(keys.values())]
        found = await asyncio.gather(*(self._client.script(_OWNERS, batch, tenant) for batch in batches))
        texts = dict(zip(keys, (text for batch in found for text in batch), strict=True))
        # a few own many, and sealed each text is of its lineage alone
        tags = {text: one.tag for (id_, text) in texts.items() if text is not None and (one := minted[id_])}
        owners = {text: owner_of([text], self._envelope, tag) for text, tag in tags.items()}
        return {id_ for id_, text in texts.items() if text is not None and not sees(id_, owners[text])}
