"""The one Redis client: made from one URL, bounded in time and connections, its exceptions turned into ours here."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib import resources
from time import perf_counter
from typing import Any, NamedTuple

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    NoScriptError,
    ReadOnlyError,
    RedisClusterException,
    ResponseError,
    SlotNotCoveredError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from proxy.errors import StoreUnavailable
from proxy.state.address import ATTEMPT, address_of, shown
from proxy.state.faults import FAULTS, unavailable
from proxy.state.keys import SCHEMA
from proxy.state.line import Line, Replied
from proxy.state.nodes import Node
from proxy.state.opening import opened
from proxy.state.pool import Lean
from proxy.waits import waits

_log = logging.getLogger(__name__)

LIMIT = 2.0
"""Seconds any operation takes at most, resending included."""

_SLOW = 0.1
"""Seconds from which on an operation is slow, where nothing else is said."""

_SCANNED = 1000
"""How many keys a server looks at in one step of a scan."""

_Arg = str | bytes | int

Heard = Callable[[str, float, bool], object]
"""Hears of every operation: the name of its script or command, the seconds it took, whether it went well."""


def unheard(_operation: str, _seconds: float, _ok: bool) -> None:
    """Nobody wants to know."""


class Script:
    """A Lua script of ``scripts/``; all of them may be sent twice, each says why in its first comment.

    ``vital``: work that was done hangs on it, so it is tried although the store was away a moment ago.
    """

    def __init__(self, name: str, *, vital: bool = False) -> None:
        folder = resources.files("proxy.state").joinpath("scripts")
        prelude = folder.joinpath("prelude.lua").read_text("utf-8")
        self.name, self.vital = name, vital
        self.text = f"local SCHEMA = {SCHEMA}\n{prelude}\n{folder.joinpath(name + '.lua').read_text('utf-8')}"
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


class Call(NamedTuple):
    """A script with its keys and arguments. ``loss``: what the log says where it fails beside another one."""

    script: Script
    keys: Sequence[str]
    args: Sequence[_Arg]
    loss: str = ""

    @property
    def words(self) -> tuple[_Arg, ...]:
        """What follows the script or its hash in the command."""
        return (len(self.keys), *self.keys, *self.args)


class Client:
    """A single server (TCP, TLS or unix socket), one that Sentinels name, or a Cluster behind two verbs."""

    def __init__(
        self, url: str, *, connections: int, heard: Heard = unheard, slow: float = _SLOW, patience: float = 0
    ) -> None:
        """``connections``: in use at once, at most; others wait for one. ``slow``: seconds from which on an operation
        is worth a line for debugging. ``patience``: seconds that the server itself may wait before it answers.
        Raises ValueError for bad URLs.
        """
        address = address_of(url, ATTEMPT + patience)
        self._limit = LIMIT + patience
        try:
            self._redis, self._sentinels = opened(address, connections)
        except (TypeError, RedisClusterException) as exc:
            told = f"The store URL {shown(url)} has an option Redis clients do not know: {exc}"
            raise ValueError(told) from None
        if self._sentinels:
            self._sentinels.moved = self._leave
        self._heard, self._slow, self._connections = heard, slow, connections
        self._cluster = self._redis if isinstance(self._redis, RedisCluster) else None  # to ask its class takes 2 µs
        self._nodes: dict[str, Node] = {}
        """By name, so that one that hangs holds up nobody else: the nodes of a Cluster fail one by one."""
        self._sent: set[str] = set()
        """The scripts that a server has got from us: asking it for others would cost a round trip more."""
        self._line: Line | None = None
        self._moves = 0  # how often what was the primary has been left
        self._reply_limit = float(address.options["socket_timeout"])

    @property
    def is_cluster(self) -> bool:
        """Whether there are several servers, which fail one by one."""
        return self._cluster is not None

    async def command(self, name: str, *args: _Arg) -> Any:
        """One idempotent command on keys, which begin behind its name or STREAMS. Raises StoreUnavailable."""
        key = args[args.index("STREAMS") + 1 if "STREAMS" in args else 0]
        node = self._node_of(str(key))
        node.check()
        return await self._bounded(node, name, lambda: self._send(name, *args))

    async def script(self, script: Script, keys: Sequence[str], *args: _Arg, beside: Call | None = None) -> Any:
        """The script's reply. Raises StoreUnavailable, also for a record that only a later statecar can read.

        ``beside``: another one, which a single server is sent with it, so that both cost one round trip; on a Cluster
        it may belong elsewhere, and is refused. Where it alone fails it is logged.
        """
        node = self._node_of(keys[0])
        if not script.vital:
            node.check()
        call = Call(script, keys, args)
        send = (lambda: self._evaluate_both(call, beside)) if beside else (lambda: self._evaluate(call))
        reply = await self._bounded(node, script.name, send)
        if reply == b"NEWER":
            self.check_schema(keys[0], SCHEMA + 1)
        return reply

    async def open_line(self) -> None:
        """Opens the connection that ``post`` needs, where it can be had and is not there. A Cluster has none: what is
        asked for goes to many servers.
        """
        if self._cluster or (self._line and self._line.is_open):
            return
        assert isinstance(self._redis, Redis), "there is one server"
        connection: Lean = self._redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        moves = self._moves
        try:
            async with asyncio.timeout(self._limit):
                await connection.connect()
            if moves == self._moves:  # else it may lead to what was left meanwhile
                self._line = Line(connection, self._reply_limit, self._posted)
        except FAULTS as exc:
            _log.debug("no connection to share: %s", exc)
        finally:
            if not (self._line and self._line.is_open):
                connection.drop()

    def post(self, script: Script, keys: Sequence[str], args: Sequence[_Arg], replied: Replied) -> bool:
        """Sends a script, for which nobody waits. ``replied`` takes its reply, or None where there is none and the
        script is to be sent with ``script``. False: so it is from the first.
        """
        line = self._line
        if line is None or not line.is_open or script.sha not in self._sent:
            return False
        if self._sentinels and self._sentinels.wants_to_look:
            return False
        line.send(script.name, ("EVALSHA", script.sha, len(keys), *keys, *args), replied)
        return True

    def _posted(self, name: str, began: float, seconds: float) -> None:
        """Hears of what was posted and went well; whoever sends the rest again tells of what is wrong."""
        self._nodes[""].note(began, ok=True)
        self._heard(name, seconds, True)

    @staticmethod
    def check_schema(key: str, schema: int) -> None:
        """Raises StoreUnavailable for what only a later statecar can read: another replica may be one already."""
        if schema > SCHEMA:
            _log.error("%s was written by a later version of statecar", key)
            raise StoreUnavailable("This was stored by a later version of the server. Please retry.")

    async def policies(self) -> set[str]:
        """The maxmemory-policy of every server; empty where INFO is not allowed. Raises StoreUnavailable."""
        options: dict[str, Any] = {"target_nodes": RedisCluster.PRIMARIES} if self._cluster else {}
        try:
            async with asyncio.timeout(LIMIT):
                found = await self._redis.execute_command("INFO", "memory", **options)
        except ResponseError:
            return set()
        except FAULTS as exc:
            raise unavailable("INFO", exc) from exc
        servers = found.values() if all(isinstance(v, dict) for v in found.values()) else [found]
        return {server["maxmemory_policy"] for server in servers if "maxmemory_policy" in server}

    async def scan(self, pattern: str) -> AsyncIterator[list[bytes]]:
        """The names of all keys that match, some perhaps twice; of those that come meanwhile some may be missing.

        Raises StoreUnavailable, also where another server becomes the primary meanwhile: it counts its keys anew.
        """
        if self._cluster:
            await self._cluster.initialize()
        for target in self._cluster.get_primaries() if self._cluster else [None]:
            node, moves, cursor = self._node_named(target.name if target else ""), self._moves, 0
            while True:
                cursor, names = await self._bounded(node, "SCAN", partial(self._scan, target, cursor, pattern))
                if moves != self._moves:
                    raise StoreUnavailable("Another server has become the primary. Please begin again.")
                if names:
                    yield names
                if not cursor:
                    break

    async def _scan(self, target: Any, cursor: int, pattern: str) -> tuple[int, list[bytes]]:
        words = ("SCAN", cursor, "MATCH", pattern, "COUNT", _SCANNED)
        if not self._cluster:
            found: tuple[int, list[bytes]] = await self._send(*words)
            return found
        cursors, names = await self._cluster.execute_command(*words, target_nodes=target)
        return cursors[target.name], names

    async def close(self) -> None:
        """Closes every connection."""
        self._close_line()
        await self._redis.aclose()
        if self._cluster:  # its aclose does nothing after a connection error
            await self._cluster.nodes_manager.aclose()
            await self._cluster.nodes_manager.aclose("startup_nodes")
        if self._sentinels:
            await self._sentinels.close()

    async def _leave(self) -> None:
        """Closes the connections, those in use after what they are used for: what was the primary when they were made
        is none now, and the URL's address or the Sentinels may lead to the new one. A Cluster's client is told by
        MOVED."""
        self._moves += 1
        self._close_line()
        if isinstance(self._redis, Redis):
            pool = self._redis.connection_pool
            await pool.update_active_connections_for_reconnect()  # type: ignore[no-untyped-call]
            await pool.disconnect(inuse_connections=False)

    def _close_line(self) -> None:
        if self._line:
            self._line.close()
            self._line = None

    def _node_of(self, key: str) -> Node:
        """The server that has a key, as far as it is known."""
        name = ""
        if self._cluster:
            with suppress(SlotNotCoveredError):
                found = self._cluster.get_node_from_key(key)
                name = found.name if found else ""
        return self._node_named(name)

    def _node_named(self, name: str) -> Node:
        if name not in self._nodes:
            self._nodes[name] = Node(self._connections, self._limit)
        return self._nodes[name]

    async def _evaluate(self, call: Call) -> Any:
        script = call.script
        if script.sha in self._sent:
            try:
                return await self._send("EVALSHA", script.sha, *call.words)
            except NoScriptError:
                pass
        reply = await self._send("EVAL", script.text, *call.words)
        self._sent.add(script.sha)
        return reply

    async def _evaluate_both(self, call: Call, beside: Call) -> Any:
        """The first one's reply; of the other it is logged if it fails."""
        began = perf_counter()
        if self._sent.issuperset((call.script.sha, beside.script.sha)):
            reply, other = await self._send_both(call, beside)
        else:
            reply = other = NoScriptError()
        if isinstance(reply, NoScriptError):
            reply = await self._evaluate(call)
        elif isinstance(reply, ResponseError):
            raise reply
        try:
            if isinstance(other, NoScriptError):
                other = await self._evaluate(beside)
            elif isinstance(other, ResponseError):
                raise other
        except ResponseError as exc:
            unavailable(beside.script.name, exc)
            _log.warning("%s", beside.loss)
        self._heard(beside.script.name, perf_counter() - began, not isinstance(other, ResponseError))
        return reply

    async def _send_both(self, *calls: Call) -> list[Any]:
        """Sends calls of scripts in one write; their replies, or what the server has refused them with."""
        assert isinstance(self._redis, Redis), "commands for a Cluster may go to several servers"
        single: Any = self._redis
        connection = await single.connection_pool.get_connection()
        try:
            packed = [connection.pack_command("EVALSHA", call.script.sha, *call.words) for call in calls]
            await connection.send_packed_command([b"".join(map(b"".join, packed))])
            return [await _read(single, connection, "EVALSHA") for _ in calls]
        except BaseException:
            await connection.disconnect(nowait=True)  # nobody is to read a reply that was not meant for him
            raise
        finally:
            await single.connection_pool.release(connection)

    async def _send(self, name: str, *args: _Arg) -> Any:
        """Sends a command, and gives its reply."""
        if self._cluster:
            return await self._cluster.execute_command(name, *args)
        # what Redis.execute_command does besides, retries and telemetry, takes as long again
        single: Any = self._redis
        connection = await single.connection_pool.get_connection()
        try:
            await connection.send_command(name, *args)
            return await single.parse_response(connection, name)
        finally:
            await single.connection_pool.release(connection)

    async def _bounded(self, node: Node, name: str, send: Callable[[], Awaitable[Any]]) -> Any:
        """The one guard: bounded in time, sent once more after a lost connection, redis-py's errors into ours."""
        task = asyncio.current_task()
        assert task is not None, "coroutines run in tasks"
        cancels = task.cancelling()
        began, ok = perf_counter(), None
        try:
            reply = await self._patiently(node, send)
            ok = True
            return reply
        except FAULTS as exc:
            ok = False
            raise unavailable(name, exc) from exc
        finally:
            seconds = perf_counter() - began
            node.note(began, ok)
            waits(task).store += seconds
            if seconds >= self._slow:
                _log.debug("the state store took %d ms for %s", seconds * 1000, name)
            if ok is not None:  # else nobody waited for it any more
                self._heard(name, seconds, ok)
            # redis-py writes inside asyncio.wait_for, which before Python 3.12 loses a cancellation that comes just
            # as the write is done
            if task.cancelling() > cancels:
                raise asyncio.CancelledError

    async def _patiently(self, node: Node, send: Callable[[], Awaitable[Any]]) -> Any:
        """The reply, within the limit; later where it is we who are late, as more is asked for at once than this
        process can do: the server answers others, or time went by in which we could not listen.
        """
        async with node.patience(), node.gate:
            while True:
                try:
                    return await self._attempt(send)
                except RedisTimeoutError:
                    if not node.answers:
                        raise

    async def _attempt(self, send: Callable[[], Awaitable[Any]]) -> Any:
        if self._sentinels:
            await self._sentinels.look()
        try:
            return await send()
        except (AuthenticationError, AuthorizationError, BusyLoadingError):
            raise
        except ReadOnlyError:
            await self._leave()
            return await send()
        except (RedisConnectionError, RedisTimeoutError, OSError):
            return await send()


async def _read(single: Any, connection: Any, name: str) -> Any:
    try:
        return await single.parse_response(connection, name)
    except ResponseError as exc:
        return exc
