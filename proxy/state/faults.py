"""What may go wrong between us and a store, and what it means to who asked."""

from __future__ import annotations

import logging

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    MasterDownError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from proxy.errors import StoreUnavailable

_log = logging.getLogger("proxy.state.client")

# AttributeError: redis-py's Cluster client when it is redirected to a node it does not know yet.
FAULTS = (RedisError, RedisClusterException, OSError, TimeoutError, AttributeError)

_PASSING = (ReadOnlyError, ClusterDownError, MasterDownError, TryAgainError)


def unavailable(name: str, exc: Exception) -> StoreUnavailable:
    """Ours for theirs: what passes by itself is a warning, what somebody must repair is an error in the log."""
    if isinstance(exc, RedisConnectionError) and isinstance(exc.__cause__, RedisError):
        exc = exc.__cause__  # over unix sockets, whatever the server said to a new connection
    said = str(exc).partition(", with args")[0]  # servers repeat the arguments of commands that they do not know
    refused = isinstance(exc, ResponseError | AuthenticationError | AuthorizationError | AttributeError)
    if refused and not isinstance(exc, _PASSING):
        _log.error("the state store refused %s: %s: %s", name, type(exc).__name__, said)
        return StoreUnavailable("The state store refused the operation; the server's log says why.")
    _log.warning("the state store is not reachable for %s: %s: %s", name, type(exc).__name__, said)
    return StoreUnavailable()
