"""Who calls, as its key, its token or a gateway's headers say."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.grants import EVERYTHING, Grant
from proxy.principals import Principal


@dataclass(frozen=True, slots=True)
class Identity:
    """``tenant``: its name, None for the one that everybody shares. ``principal``: None where users are not told apart.

    ``key``: what the key file calls the key; "" for any other.
    """

    tenant: str | None
    principal: Principal | None = None
    grant: Grant = EVERYTHING
    key: str = ""
