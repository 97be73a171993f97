"""A tenant's list of lineages. It lies beside them in the slot of the tenant, as the list of responses does; through it
is found what no record speaks of any more."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

from proxy.errors import StoreUnavailable
from proxy.state import keys
from proxy.state.client import Call, Client, Script
from proxy.state.keys import Lifetimes

_log = logging.getLogger(__name__)

_ADD = Script("lineage_add")


def entry_args(tag: str, lasting: int) -> tuple[bytes, int | str, int]:
    """What a script lists a lineage by, that is kept for so many seconds, 0 for ever: tag, until, now."""
    now = int(time.time())
    return bytes.fromhex(tag), now + lasting if lasting else "+inf", now


class Lineages:
    """The lineages of each tenant."""

    def __init__(self, client: Client, lifetimes: Lifetimes) -> None:
        self._client, self._lifetimes = client, lifetimes

    def entry(self, tenant: str, tag: str, *, of_conversation: bool) -> Call:
        """What lists a lineage."""
        arguments = entry_args(tag, self._lifetimes.listed(of_conversation))
        loss = f"lineage {tag} was not entered into its tenant's list"
        return Call(_ADD, [keys.tenant_lineages(tenant)], arguments, loss)

    async def script(self, entry: Call, script: Script, names: Sequence[str], *args: Any) -> Any:
        """A script's reply, its lineage listed beside: in the same write, on a Cluster meanwhile."""
        if not self._client.is_cluster:
            return await self._client.script(script, names, *args, beside=entry)
        listing = asyncio.create_task(self.add(entry))
        try:
            return await self._client.script(script, names, *args)
        finally:
            await listing

    async def add(self, entry: Call) -> None:
        """Lists a lineage; a failure is logged and costs no more than the entry."""
        try:
            await self._client.script(entry.script, entry.keys, *entry.args)
        except StoreUnavailable:
            _log.warning("%s", entry.loss)
