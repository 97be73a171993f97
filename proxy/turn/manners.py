"""How each upstream wants to be asked, by model: its dialect to begin with, and what its refusals have taught."""

from __future__ import annotations

import logging
from collections.abc import Callable

from proxy.translate.dialects import Dialect
from proxy.upstream import Upstream

log = logging.getLogger("statecar.turn")


class Manners:
    """The dialect for an upstream and a model."""

    def __init__(self, first: Callable[[str], Dialect]) -> None:
        """``first``: base URL to the dialect to begin with."""
        self._first = first
        self._known: dict[str, Dialect] = {}

    async def of(self, upstream: Upstream, model: str) -> Dialect:
        """The dialect to ask this upstream for this model in."""
        if upstream.base_url not in self._known:
            self._known[upstream.base_url] = self._first(upstream.base_url)
        return self._known[upstream.base_url]

    async def learn(self, upstream: Upstream, model: str, dialect: Dialect) -> None:
        """Remembers a dialect in which the upstream has answered after it had refused another."""
        log.warning("the upstream needs other manners than assumed: from now on %s", dialect)
        self._known[upstream.base_url] = dialect
