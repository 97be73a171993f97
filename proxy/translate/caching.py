"""What a chat body tells of caches: whose prompts may share one, and which requests belong together (wire §11.1)."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from proxy.translate.dialects import Dialect


@dataclass(frozen=True)
class Caching:
    """``salted``: prompts of different tenants share no cache, where the upstream can keep them apart. ``keyed``: the
    session stands for a ``prompt_cache_key`` that a request has not.
    """

    salted: bool = False
    keyed: bool = False

    def told(self, body: dict[str, Any], dialect: Dialect, *, tenant: str, session: str) -> dict[str, Any]:
        """The body with what is to be told. ``session``: "" for a request that belongs to no other."""
        more: dict[str, Any] = {}
        if self.salted and dialect.cache_salt:
            more["cache_salt"] = _salt(tenant, body.get("cache_salt"))
        if self.keyed and dialect.openai_like and session and not body.get("prompt_cache_key"):
            more["prompt_cache_key"] = session
        return body | more if more else body


def _salt(tenant: str, own: Any) -> str:
    """Nothing that others can guess, as long as they cannot guess the tenant's id, which is a keyed hash.

    ``own``: the request's salt where the option vendor_keys lets it through: it parts the tenant's cache further.
    """
    text = f"cache_salt\n{tenant}\n{own if isinstance(own, str) else ''}"
    return sha256(text.encode(errors="surrogatepass")).hexdigest()
