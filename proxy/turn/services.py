"""What turns share: the outside world, who calls, and the end of a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from proxy.errors import StatecarError
from proxy.grants import EVERYTHING, Grant
from proxy.hosted import Hosted
from proxy.principals import Principal
from proxy.seal import Sealer
from proxy.state import Past, State
from proxy.translate.dialects import Dialect
from proxy.turn.guard import Guard
from proxy.turn.manners import Manners
from proxy.turn.sessions import Sessions
from proxy.upstream import Pool

KEY = "authorization"
"""The header that a caller's key stands in."""


TurnTraced = Callable[
    [dict[str, Any], Mapping[str, Any], Sequence[tuple[str, str]] | None], AbstractContextManager[object]
]
"""Follows a turn, which is made in its block: the facts that are told of it at its end, its request, and the headers
of the request that began it, where another process did.
"""


class ShuttingDown(StatecarError):
    """The server stops and the turn's time to end is over."""

    status = 503

    def __init__(self) -> None:
        super().__init__("The server is shutting down. Please retry.", headers={"retry-after": "1"})


@dataclass(frozen=True)
class Services:
    """What turns need of the outside world; every edge shares one. ``guard``: what callers may do with
    what is stored. ``now``: Unix seconds.

    ``sealer``: None without a key. ``count_by_generation``: tokens may be counted by asking for an answer of one.
    ``stateless``: while the store is away, requests that need no state are served without it. ``hosted``: the tools
    that run here. ``max_tool_rounds``: upstream calls of a turn at most; in the last one they are not offered.
    ``heard_tool``: told of every call of them: its type, how it ended, its seconds, the call, and its outcome unless it
    was cancelled. ``traced``: None for nobody. ``sessions``: what is told of which calls belong together.
    """

    state: State
    pool: Pool
    manners: Manners
    guard: Guard
    now: Callable[[], float]
    upstream_stream: str = "auto"
    lock_wait: float = 0.0
    late_errors: str = "failed"
    sealer: Sealer | None = None
    count_by_generation: bool = False
    stateless: bool = False
    hosted: Hosted | None = None
    max_tool_rounds: int = 16
    heard_tool: Callable[..., object] = lambda *_: None
    traced: TurnTraced | None = None
    sessions: Sessions = field(default_factory=Sessions)

    def streams(self, dialect: Dialect) -> bool:
        """Whether the upstream streams for a caller who does not: where a plain call could not be stopped."""
        return self.upstream_stream == "always" or (self.upstream_stream == "auto" and not dialect.plain_stops)


@dataclass(frozen=True)
class Caller:
    """Who asks: the tenant whose state it is, and the headers that go upstream with its requests.

    ``tenant``: "" for one that cannot be told while the store is away; it has no state, and gets none.
    ``request_id``: of the request at work, which the ids of its upstream calls begin with; "" for none.
    ``recent``: what only the caller's connection knows, by the response that it ends with (wire §13.6).
    ``principal``: the user within the tenant, where users are told apart: it owns what it makes. ``grant``: what the
    caller may do. ``limits``: headers that tell how its tenant's limits stand, known once its request was let in.
    """

    tenant: str
    headers: list[tuple[str, str]] = field(default_factory=list)
    request_id: str = ""
    recent: Mapping[str, Past] = field(default_factory=dict)
    principal: Principal | None = None
    grant: Grant = EVERYTHING
    limits: dict[str, str] = field(default_factory=dict)

    def without_key(self) -> Caller:
        """The same, for an upstream that wants no key of the caller's."""
        return replace(self, headers=[pair for pair in self.headers if pair[0] != KEY])
