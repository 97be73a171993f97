"""An upstream's answer as its chunks, those included that are given as texts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Any

from proxy.chunks import Texts
from proxy.upstream import Batch, Reply


async def batches(reply: Reply) -> AsyncGenerator[list[dict[str, Any]], None]:
    """The chunks of each read."""
    while batch := await reply.read():
        yield list(whole(batch))


def whole(batch: Batch) -> Iterator[dict[str, Any]]:
    """Each chunk of a batch as it came."""
    for one in batch:
        yield from map(one.chunk, one) if isinstance(one, Texts) else [one]
