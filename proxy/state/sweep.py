"""Finds all that is kept of a tenant, by looking at every key of the store.

Nothing says which keys a lineage has, and an entry costs memory in every talk; a look at all names costs a second for
some million keys, and is taken only for an export or a purge.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from proxy.state import keys
from proxy.state.client import Client, Script
from proxy.state.lineages import Lineages

T = TypeVar("T")

_WHOSE = Script("whose")

_OWNED = ("r", "j", "c")
"""Kinds of keys that say whose they are: records, runs and conversations."""

_AT_ONCE = 50_000
"""Lineages, or responses, whose keys are in memory at a time: some 20 MB."""

_LINEAGE = "sc:{" + "[0-9a-f]" * 16 + "}:*"


class Sweep:
    """All keys of a tenant, on whatever kind of store."""

    def __init__(self, client: Client, lineages: Lineages, tenant: str) -> None:
        self._client, self._lineages, self.tenant = client, lineages, tenant
        self.list = keys.tenant_lineages(tenant)

    async def complete(self) -> None:
        """Lists what belongs to the tenant and is not listed: what an earlier statecar has written, or one whose entry
        was lost.
        """
        async for _ in self.others():
            pass

    async def others(self) -> AsyncIterator[set[str]]:
        """The tags of all lineages that are another tenant's, a few at a time; some perhaps twice. The tenant's
        list is completed meanwhile.
        """
        async for names in self._client.scan(_LINEAGE):
            owned: dict[str, bytes] = {}
            for name in names:
                tag, kind = _parts(name)
                if kind[:1] in _OWNED:
                    owned.setdefault(tag, name)
            unlisted = set(owned) - await self._listed(owned)
            own = await self._of_tenant({tag: owned[tag] for tag in unlisted})
            for tag in own:
                await self._lineages.add(self._lineages.entry(self.tenant, tag, of_conversation=True))
            yield unlisted.difference(own)

    async def names(self) -> AsyncIterator[list[bytes]]:
        """The names of all keys of the tenant's lineages, a few at a time; some perhaps twice."""
        async for names in self._client.scan(_LINEAGE):
            listed = await self._listed({_parts(name)[0] for name in names})
            if own := [name for name in names if _parts(name)[0] in listed]:
                yield own

    async def own(self, kind: str = "") -> AsyncIterator[list[bytes]]:
        """The names of the tenant's own keys, of one kind or all, but not of its list of lineages."""
        async for names in self._client.scan(f"sc:{{t:{self.tenant}}}:{kind}*"):
            yield [name for name in names if name.decode() != self.list]

    async def lineages(self) -> AsyncIterator[tuple[str, list[str]]]:
        """The lineages by their tags, in order, each with what of its keys' names follows the tag.

        In memory are the names of so many of them at a time, whatever a tenant has; for more of them all keys of the
        store are looked at more than once.
        """
        count = await self.count() + await self._client.command("ZCARD", keys.tenant_index(self.tenant))
        slices = count // _AT_ONCE + 1
        for part in range(slices):
            found: dict[str, str] = {}
            async for names in self._client.scan(_LINEAGE):
                wanted = [_parts(name) for name in names]
                wanted = [(tag, rest) for tag, rest in wanted if int(tag[:8], 16) * slices >> 32 == part]
                listed = await self._listed({tag for tag, _ in wanted})
                for tag, rest in wanted:
                    if tag in listed:
                        found[tag] = f"{found.get(tag, '')} {rest}"
            for tag in sorted(found):
                yield tag, sorted(set(found.pop(tag).split()))

    async def count(self) -> int:
        """How many lineages are listed."""
        return int(await self._client.command("ZCARD", self.list))

    async def has(self, tag: str) -> bool:
        """Whether a lineage is the tenant's."""
        return tag in await self._listed([tag])

    async def _listed(self, tags: Iterable[str]) -> set[str]:
        """Which of the tags are the tenant's."""
        asked = list(tags)
        if not asked:
            return set()
        scores = await self._client.command("ZMSCORE", self.list, *map(bytes.fromhex, asked))
        return {tag for tag, score in zip(asked, scores, strict=True) if score is not None}

    async def _of_tenant(self, owned: dict[str, bytes]) -> list[str]:
        """The tags whose keys name the tenant."""
        tags = list(owned)
        owners = await each(self._client, _WHOSE, [[owned[tag].decode()] for tag in tags])
        return [tag for tag, owner in zip(tags, owners, strict=True) if owner == self.tenant.encode()]


async def side_by_side(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What all of it comes to. Where one fails, the others are ended before that is raised."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        raise


async def each(client: Client, script: Script, groups: Sequence[Sequence[str]]) -> list[Any]:
    """What a script of many keys answers for them, each group of one slot: at once, or on a Cluster slot by slot."""
    if not groups:
        return []
    if not client.is_cluster:
        reply = await client.script(script, [name for group in groups for name in group])
        return reply if isinstance(reply, list) else [reply]
    replies = await side_by_side(client.script(script, group) for group in groups)
    return [one for reply in replies for one in (reply if isinstance(reply, list) else [reply])]


def by_lineage(names: Iterable[bytes]) -> list[list[str]]:
    """Names, each once, those of one lineage together."""
    groups: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        groups.setdefault(_parts(name)[0], []).append(name.decode())
    return list(groups.values())


def _parts(name: bytes) -> tuple[str, str]:
    """The tag of a lineage's key, and what follows it."""
    text = name.decode("utf-8", "replace")
    return text[4:20], text[22:]
