"""By which keys the content of a store is encrypted, so that a process that lacks one of them knows it at its start."""

from __future__ import annotations

import time

from proxy.state.client import Client, Script
from proxy.state.envelope import Envelope
from proxy.state.keys import KEYS_USED, Lifetimes

_USED = Script("keys_used")


async def missing_keys(client: Client, envelope: Envelope, lifetimes: Lifetimes) -> list[str]:
    """The names of the keys that content may need and this process has not got. Notes by which key it encrypts itself.

    A key counts until the longest life of content is over, begun when a process with another first key started. Raises
    StoreUnavailable.
    """
    lives = lifetimes.log, lifetimes.conversation_log
    own = envelope.key_names
    arguments = next(iter(own), ""), int(time.time()), max(lives) if all(lives) else 0
    used = await client.script(_USED, [KEYS_USED], *arguments)
    return [name.decode() for name in used if name.decode() not in own]
