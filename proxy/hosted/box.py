"""Tools that run here: what is served, and the tools of one turn."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from proxy import codec
from proxy.errors import InvalidRequest, ToolServerError, ToolSessionLost
from proxy.hosted.outcomes import cut, cut_error, execution_error, http_error, outcome
from proxy.hosted.servers import Server, Servers
from proxy.translate.hosted_tools import allowed

log = logging.getLogger("statecar.hosted")

T = TypeVar("T")
Tools = list[dict[str, Any]]
_GOODBYE = 5.0
"""Seconds that work which nobody waits for any more may take to end."""
MOST_LISTED = 4 * 1024 * 1024
"""Bytes of tools that all servers of a turn may list together: they are stored, and sent upstream in each round."""


@dataclass(frozen=True)
class Answer:
    """What an MCP tool answered. ``text``: what a model reads of it; ``structured``: its JSON, if it gave any.

    ``images``: those among its blocks, as data URLs. ``error``: the error object of an mcp_call (wire §6.2) instead.
    """

    text: str = ""
    structured: Any = None
    images: tuple[str, ...] = ()
    error: dict[str, Any] | None = None


class Session(Protocol):
    """One MCP session, which connects when it is made."""

    @property
    def alive(self) -> bool: ...

    async def list(self) -> Tools: ...

    async def call(self, name: str, arguments: dict[str, Any]) -> Answer: ...

    def close(self) -> None: ...


class Sessions(Protocol):
    """The MCP SDK's door."""

    def open(self, server: Server) -> Session: ...

    async def aclose(self) -> None: ...


class Binding(Protocol):
    """What runs an OpenAI tool type here."""

    async def run(self, box: Box, tool: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
        """The outcome of a call; ``tool`` as in the request. Raises nothing that a call can cause."""

    async def aclose(self) -> None: ...


@dataclass
class Hosted:
    """All that runs here. ``missing``: why MCP is configured and cannot be served, None where it can.

    ``timeout``: seconds a call or a listing may take; ``limit``: bytes of output a model is given.
    """

    servers: Servers
    sessions: Sessions | None
    bindings: Mapping[str, Binding]
    timeout: float
    limit: int
    missing: str | None = None
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    @property
    def types(self) -> frozenset[str]:
        """The bound types: of web_search, file_search, code_interpreter."""
        return frozenset(self.bindings)

    @property
    def serves_mcp(self) -> bool:
        """Whether mcp tools are looked at at all; ``check`` says of each whether it may be used."""
        return bool(self.servers)

    def check(self, tool: Mapping[str, Any], place: str) -> None:
        """Raises InvalidRequest for an mcp tool that cannot be served; ``place``: where it stands, as tools[0]."""
        if self.sessions is None and self.servers:
            raise InvalidRequest(
                f"MCP tools cannot be served here: {self.missing}.", param=f"{place}.type", code="unsupported_parameter"
            )
        if not self.servers:
            raise InvalidRequest(
                "MCP tools are not served here: the operator configures servers with --connector, or allows hosts with"
                " --mcp-allow; both need the extra statecar[mcp].",
                param=f"{place}.type",
                code="unsupported_parameter",
            )
        self.servers.of(tool, place)

    def box(self, caller_tag: str) -> Box:
        """The tools of one turn. ``caller_tag``: whose turn it is, in log lines."""
        return Box(self, caller_tag)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """``work`` as a task that ``aclose`` waits for."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return task

    def _over(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits for it has it; if nobody does, nobody misses it

    async def aclose(self) -> None:
        """Ends what still runs; nothing is left of it afterwards."""
        if self.sessions is not None:
            await self.sessions.aclose()
        if tasks := set(self._tasks):
            _, late = await asyncio.wait(tasks, timeout=_GOODBYE)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for binding in self.bindings.values():
            await binding.aclose()


@dataclass
class Box:
    """The tools of one turn: a session with each server, from its first use to ``close``. Usable from any task."""

    hosted: Hosted
    caller_tag: str
    _sessions: dict[Server, Session] = field(default_factory=dict)
    _closed: bool = False
    _listed: int = 0

    async def list(self, tool: Mapping[str, Any]) -> Tools:
        """The tools of an mcp tool's server, as in an mcp_list_tools item (wire §6.2).

        Raises InvalidRequest for a server that may not be asked, ToolServerError for one that does not answer.
        """
        server = self.hosted.servers.of(tool, "tools")
        began = time.monotonic()
        try:
            listed = await self._within_limit(self._with(server, _list))
            self._take(server, listed)
        except TimeoutError:
            late = ToolServerError(server.label, f"It did not answer within {self.hosted.timeout:g} seconds.")
            self._told(server, "tools/list", "timeout", began, late.for_log)
            raise late from None
        except InvalidRequest as exc:
            self._told(server, "tools/list", "refused", began, exc.message)
            raise
        except ToolServerError as exc:
            self._told(server, "tools/list", "http_error", began, exc.for_log)
            raise
        usable = len(allowed(dict(tool), listed))
        less = f", {usable} of them allowed by the request" if usable < len(listed) else ""
        self._told(server, "tools/list", f"{len(listed)} tools{less}", began)
        return listed

    def _take(self, server: Server, listed: Tools) -> None:
        self._listed += len(codec.dumps(listed))
        if self._listed > MOST_LISTED:
            raise ToolServerError(
                server.label, f"It and other servers list more than is taken: {MOST_LISTED // 1024} KiB together."
            )

    async def call(self, tool: Mapping[str, Any], name: str, arguments: str) -> dict[str, Any]:
        """The outcome of a call of an MCP tool. ``arguments``: JSON text, as the model wrote it."""
        try:
            given = codec.loads(arguments or "{}")
        except ValueError:
            given = None
        if not isinstance(given, dict):
            return outcome(error=execution_error("The arguments are no JSON object: write them again."))
        try:
            server = self.hosted.servers.of(tool, "tools")
        except InvalidRequest as exc:
            return outcome(error=http_error(exc.status, exc.message))
        answer = await self._ask(server, name, given)
        return outcome(cut(answer.text, self.hosted.limit), answer.error)

    async def run(self, type_: str, tool: Mapping[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
        """The outcome of a call of a bound type; ``tool`` as in the request."""
        began = time.monotonic()
        try:
            return await self._within_limit(self.hosted.bindings[type_].run(self, dict(tool), arguments))
        except TimeoutError:
            log.warning("tool %s: timeout in %d ms", type_, 1000 * (time.monotonic() - began))
            text = f"The tool did not answer within {self.hosted.timeout:g} seconds."
            return outcome(error=http_error(504, text))

    async def ask_connector(self, name: str, tool: str, arguments: dict[str, Any]) -> Answer:
        """What a tool of one of the operator's servers answers, for bindings. Never raises for what the server does."""
        return await self._ask(self.hosted.servers.connector(name, name), tool, arguments)

    async def connector_tools(self, name: str) -> Tools:
        """The tools of one of the operator's servers. Raises ToolServerError, TimeoutError."""
        return await self._within_limit(self._with(self.hosted.servers.connector(name, name), _list))

    def close(self) -> None:
        """Says goodbye to every server, in the background."""
        self._closed = True
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()

    async def _ask(self, server: Server, name: str, arguments: dict[str, Any]) -> Answer:
        began, why = time.monotonic(), ""
        try:
            given = codec.without_surrogates(arguments)  # a session ends over what cannot be written
            answer = await self._within_limit(self._with(server, lambda session: session.call(name, given)))
        except ValueError:
            answer = Answer(error=execution_error("The arguments are nested too deeply: write them again."))
        except TimeoutError:
            why = f"The tool did not answer within {self.hosted.timeout:g} seconds."
            answer = Answer(error=http_error(504, why))
        except ToolServerError as exc:
            why = exc.for_log
            answer = Answer(error=http_error(exc.http_status, f"MCP server '{exc.label}': {exc.why}"))
        except InvalidRequest as exc:
            why = exc.message
            answer = Answer(error=http_error(exc.status, why))
        self._told(server, name, answer.error["type"] if answer.error else "completed", began, why)
        return replace(answer, error=cut_error(answer.error, self.hosted.limit))

    async def _with(self, server: Server, what: Callable[[Session], Awaitable[T]]) -> T:
        """``what`` of the session with a server; once more with a new one, if the server has forgotten the first."""
        try:
            return await what(self._session(server))
        except ToolSessionLost:
            return await what(self._session(server))

    def _session(self, server: Server) -> Session:
        """The session with a server; a new one if the last has ended."""
        if self._closed:
            raise ToolServerError(server.label, "The turn is over.")
        assert self.hosted.sessions is not None, "checked before the turn"
        there = self._sessions.get(server)
        if there is None or not there.alive:
            there = self._sessions[server] = self.hosted.sessions.open(server)
        return there

    async def _within_limit(self, work: Coroutine[Any, Any, T]) -> T:
        """What ``work`` gives. Whoever is cancelled, or has waited long enough, does not wait for it to end."""
        task = self.hosted.spawn(work)
        try:
            done, _ = await asyncio.wait({task}, timeout=self.hosted.timeout)
        finally:
            task.cancel()
        if not done:
            raise TimeoutError
        return task.result()

    def _told(self, server: Server, what: str, how: str, began: float, why: str = "") -> None:
        """One log line: never what was asked or answered. ``why`` a server could not be asked makes it a warning."""
        took = f"{1000 * (time.monotonic() - began):.0f} ms" + (f". {why}" if why else "")
        level = logging.WARNING if why else logging.INFO
        log.log(level, "mcp %s at %s, %s: %s in %s", server.label, server.host, what, how, took)


async def _list(session: Session) -> Tools:
    return await session.list()
