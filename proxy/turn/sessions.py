"""What says that calls belong together: to the choice among replicas, to gateways, and to upstreams' caches."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from proxy.translate.caching import Caching
from proxy.translate.dialects import Dialect

Headers = list[tuple[str, str]]
Written = Callable[[Dialect], dict[str, Any]]


@dataclass(frozen=True)
class Sessions:
    """``header``: what a session is named in, by callers and upstream, in lower case; "" for nowhere."""

    header: str = ""
    caching: Caching = field(default_factory=Caching)

    def of(self, request: dict[str, Any], tenant: str, headers: Headers, tag: str) -> str:
        """What a request's calls have in common with others: the caller's own word within its tenant, else the lineage.

        ``headers``: the caller's; ``tag``: of the lineage. In hexadecimal digits.
        """
        if self.header and (given := self._given(headers)):
            return _within(tenant, f"header {given}")
        if key := request.get("prompt_cache_key"):
            return _within(tenant, f"key {key}")
        return tag

    def named(self, headers: Headers, session: str) -> Headers:
        """The caller's headers, and the session; its own word for it stays as it came."""
        if not self.header or self._given(headers):
            return headers
        return [*(pair for pair in headers if pair[0] != self.header), (self.header, session)]

    def told(self, written: Written, tenant: str, session: str) -> Written:
        """The same bodies, that tell caches what they are to know. ``tenant``: "" for one that cannot be told."""
        caching = self.caching
        if not (caching.salted or caching.keyed):
            return written
        sharing = tenant or secrets.token_hex(16)
        return lambda dialect: caching.told(written(dialect), dialect, tenant=sharing, session=session)

    def _given(self, headers: Headers) -> str:
        return next((value for name, value in headers if name == self.header), "")


def _within(tenant: str, word: str) -> str:
    return blake2b(f"{tenant}\n{word}".encode(errors="surrogatepass"), digest_size=16).hexdigest()
