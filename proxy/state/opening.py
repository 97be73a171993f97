"""redis-py's client for an address."""

from __future__ import annotations

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import Connection, SSLConnection

from proxy.state.address import Address
from proxy.state.pool import LEAN, Pool
from proxy.state.sentinels import Primary, PrimaryOverTls, Sentinels


def opened(address: Address, connections: int) -> tuple[Redis | RedisCluster, Sentinels | None]:
    """redis-py's client, and who tells it where the primary is. Raises TypeError and RedisClusterException for options
    it does not know.
    """
    if address.is_cluster:
        # The gate keeps calls below the pool's size; the other half is for connections being closed or discovering.
        options = address.options | {
            "max_connections": 2 * connections,
            "require_full_coverage": False,  # slots that are served are served
            "reinitialize_steps": 0,  # a MOVED moves its slot; starting over would cut other calls' connections
        }
        return RedisCluster(**options), None
    kind, sentinels = address.options.get("connection_class", Connection), None
    # The gate keeps calls below the pool's size; the other one is for the question that is asked at start-up.
    options = address.options | {"max_connections": connections + 1, "connection_class": LEAN[kind]}
    if address.sentinels:
        sentinels = Sentinels(address.sentinels, address.service, address.sentinel_options)
        options |= {"sentinels": sentinels, "connection_class": PrimaryOverTls if kind is SSLConnection else Primary}
    options.pop("timeout", None)  # of a pool that waits
    pool = Pool(**options)
    pool.connection_class(**pool.connection_kwargs)  # not connected; only checks the options
    return Redis.from_pool(pool), sentinels
